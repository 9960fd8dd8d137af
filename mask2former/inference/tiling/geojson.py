"""Outlines of the instances of an image with a place on the earth, as GeoJSON."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

import numpy as np

from ...structures import Classes
from .joining import JoinedObject


class GeoJsonWriter:
    """Writes a feature per instance, in the coordinates of the image.

    Its coordinate system is named as in GeoJSON of 2008, which GDAL and QGIS read; RFC 7946 has no
    other than that of GPS.

    Args:
        file: is written to.
        georeference: see `Windows`.
        classes: of the instances.
    """

    def __init__(self, file: BinaryIO, georeference: dict[str, Any], classes: Classes):
        self._file = file
        self._transform = georeference["transform"]
        self._classes = classes
        self._separator = ""
        head: dict[str, Any] = {"type": "FeatureCollection"}
        code = None if georeference["crs"] is None else georeference["crs"].to_epsg()
        if code is not None:
            name = f"urn:ogc:def:crs:EPSG::{code}"
            head["crs"] = {"type": "name", "properties": {"name": name}}
        self._write(f'{json.dumps(head)[:-1]}, "features": [')

    def add(self, number: int, found: JoinedObject) -> None:
        """Write an instance with its number in the COCO file."""
        feature = {
            "type": "Feature",
            "geometry": {"type": "MultiPolygon", "coordinates": self._polygons(found)},
            "properties": {
                "id": number,
                "category_id": self._classes.ids[found.label],
                "name": self._classes.names[found.label],
                "score": float(np.float32(found.score)),
            },
        }
        self._write(f"{self._separator}\n{json.dumps(feature)}")
        self._separator = ","

    def close(self) -> None:
        """Write the end."""
        self._write("\n]}\n")

    def _polygons(self, found: JoinedObject) -> list[Any]:
        """Return polygons, of rings of (x, y): those of very large objects end at bands."""
        from rasterio.features import shapes
        from rasterio.windows import Window, transform

        polygons = []
        for place, mask in found.bands():
            height, width = place.size
            moved = transform(Window(place.left, place.top, width, height), self._transform)
            pixels = mask.astype(np.uint8)
            polygons += [s["coordinates"] for s, _ in shapes(pixels, mask=mask, transform=moved)]
        return polygons

    def _write(self, text: str) -> None:
        self._file.write(text.encode())
