"""The HTTP API: its paths, and what they answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mask2former_runtime.prediction import Prediction

from .. import __version__
from ..inference.selection import Selection, select
from ..tasks import TaskName
from .answers import Format, encode
from .description import DESCRIPTION, ERRORS, PREDICT_BODY
from .errors import ClientGoneError, RequestError
from .label_studio import as_results, check_labels, image_of_task, read_label_config
from .limits import Limits
from .metrics import CONTENT_TYPE, Metrics
from .middleware import Gatekeeper, error_answer
from .model import ServedModel
from .page import Page
from .pipeline import Pipeline, Wish
from .security import Guard
from .task_images import TaskImages
from .uploads import content_type, find_image, parse_json, read_body

logger = logging.getLogger(__name__)

T = TypeVar("T")


def build_app(
    model: ServedModel,
    *,
    guard: Guard,
    limits: Limits,
    task_images: TaskImages,
) -> FastAPI:
    """Return the application of a server.

    Args:
        model: what it serves.
        guard: decides who may use it.
        limits: of the server.
        task_images: gets the images of Label Studio's tasks.
    """
    metrics = Metrics()
    pipeline = Pipeline(model, limits, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pipeline.start()
        try:
            yield
        finally:
            await pipeline.close()

    app = FastAPI(
        title="Mask2Former",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts of other servers
        redoc_url=None,
    )
    app.add_middleware(Gatekeeper, guard=guard, metrics=metrics)
    _add_error_handlers(app)
    _add_information(app, model, limits, metrics)
    _add_predict(app, pipeline, task_images)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return error_answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"detail": f"{where}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)

    @app.exception_handler(ClientGoneError)
    async def gone(request: Request, error: ClientGoneError) -> Response:
        return Response(status_code=499)  # nobody reads it


def _add_information(app: FastAPI, model: ServedModel, limits: Limits, metrics: Metrics) -> None:
    """Add the paths that do not run the model."""
    page = Page()

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return Response(page.content, media_type="text/html; charset=utf-8", headers=page.headers)

    @app.get("/healthz", summary="Whether the server answers", responses={200: {"description": ""}})
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", summary="Counters in Prometheus' text format", response_class=Response)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/info", summary="The model, its tasks and classes, and the server's limits")
    async def info() -> dict[str, Any]:
        return {
            "model": model.name,
            "task": model.task,
            "tasks": list(model.tasks),
            "classes": model.classes.to_categories(),
            "thresholds": model.thresholds,
            "limits": {"upload_bytes": limits.upload_bytes, "pixels": limits.pixels},
        }

    @app.get("/health", summary="Label Studio: whether the server answers")
    async def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "Mask2Former"}

    @app.post("/setup", summary="Label Studio: a project connects")
    async def setup(request: Request) -> dict[str, str]:
        body = parse_json(await read_body(request, limits))
        if body.get("schema"):
            check_labels(read_label_config(body["schema"]), list(model.classes.names))
        return {"model_version": model.version}


def _add_predict(app: FastAPI, pipeline: Pipeline, task_images: TaskImages) -> None:
    model = pipeline.model

    @app.post(
        "/predict",
        summary="Find what is in an image",
        response_class=Response,
        responses=ERRORS,
        openapi_extra={"requestBody": PREDICT_BODY},
    )
    async def predict(
        request: Request,
        task: Annotated[TaskName | None, Query(description="by default that of the model")] = None,
        threshold: Annotated[
            float | None,
            Query(
                ge=0,
                le=1,
                description="lowest score of instances (default: 0.5), or lowest class probability "
                "of panoptic segments (default: as in the config); semantic maps have none",
            ),
        ] = None,
        format: Annotated[
            Format,
            Query(
                description="rle and polygons give JSON; overlay is a picture, and labels a grey "
                "image whose pixels are classes, both PNG"
            ),
        ] = "rle",
        max: Annotated[
            int | None, Query(ge=1, description="keep so many objects, those of highest score")
        ] = None,
    ) -> Response:
        wish = _wish(model, task, threshold)
        if max is not None and wish.task == "semantic":
            raise RequestError(422, "max means nothing for semantic maps")

        def finish(found: Prediction) -> Response:
            kept = found if max is None else select(found, Selection(most=max))
            content, media_type = encode(kept, format)
            return Response(content, media_type=media_type)

        with pipeline.place():
            body = await read_body(request, pipeline.limits)
            if content_type(request.headers) == "application/json":
                work = _predict_tasks(body, pipeline, task_images, wish)
                return await _while_connected(request, work)
            upload = await find_image(request.headers, body)
            del body
            await pipeline.check(upload.content, upload.name)
            work = pipeline.predict(upload.content, upload.name, wish, finish)
            return await _while_connected(request, work)


def _wish(model: ServedModel, task: str | None, threshold: float | None) -> Wish:
    chosen = task or model.task
    if chosen not in model.tasks:
        raise RequestError(
            422, f"task {chosen}: this model does {' and '.join(model.tasks)} segmentation"
        )
    if threshold is not None and chosen == "semantic":
        raise RequestError(422, "threshold means nothing for semantic maps")
    return Wish(chosen, threshold)


async def _while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work unless the client goes away.

    Raises:
        ClientGoneError: it has gone; the work has been cancelled.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGoneError
    finally:
        for future in (task, watch):
            future.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _predict_tasks(
    body: bytes, pipeline: Pipeline, task_images: TaskImages, wish: Wish
) -> Response:
    """Answer Label Studio's request for predictions."""
    query = parse_json(body)
    tasks = query.get("tasks")
    if not isinstance(tasks, list):
        raise RequestError(422, 'JSON is for Label Studio, which sends {"tasks": [...]}')
    labelling = read_label_config(query.get("label_config"))
    check_labels(labelling, list(pipeline.model.classes.names))
    version = pipeline.model.version
    results: list[dict[str, Any]] = []
    failures: list[RequestError] = []
    for task in tasks:
        try:
            address = image_of_task(task, labelling)
            content = await asyncio.to_thread(task_images.read, address)
            await pipeline.check(content, "image")
            results.append(
                await pipeline.predict(
                    content, "image", wish, lambda found: as_results(found, labelling, version)
                )
            )
        except RequestError as error:
            logger.warning("A task of Label Studio: %s", error.detail)
            failures.append(error)
            results.append({"result": [], "score": 0.0, "model_version": version})
    if failures and len(failures) == len(tasks):
        raise failures[0]
    return JSONResponse({"results": results, "model_version": version})
