"""ONNX in and out: `import_model`, `check_model`, `has_external_data`, `export_model`."""

from .exporter import export_model
from .files import has_external_data
from .importer import Unsupported, check_model, import_model, shape_inputs
from .nodes import model_of_node

__all__ = ["Unsupported", "check_model", "export_model", "has_external_data", "import_model", "model_of_node", "shape_inputs"]
