"""A trained model as an HTTP server, with a page for people and the contract of Label Studio.

It needs FastAPI and uvicorn: ``pip install "mask2former[serve]"``.
"""
