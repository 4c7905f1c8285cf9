"""Configs of Keras 2 as configs that Keras 3 reads, with our recurrent layers in them.

Pure: JSON in, JSON out. What isn't about recurrent layers is left to Keras 3, which reads most of
Keras 2's configs, but for what it reads wrongly: `hard_sigmoid` was another function.
"""

from collections.abc import Collection, Mapping
from typing import Any

import keras
from keras import ops

from ostinato.conversion.attributes import functional_class
from ostinato.layers.serialization import of_ours

_RECURRENT = ("SimpleRNN", "GRU", "LSTM", "RNN", "Bidirectional")
_CELLS = ("SimpleRNNCell", "GRUCell", "LSTMCell", "StackedRNNCells")
# cuDNN's layers of Keras 2.0 to 2.3, and what they were other than ours by default.
_CUDNN: dict[str, tuple[str, dict[str, Any]]] = {
    "CuDNNLSTM": ("LSTM", {}),
    "CuDNNGRU": ("GRU", {"reset_after": True}),
}
# Arguments of Keras 2 that Keras 3 and we don't have, and that change nothing as they are here.
_GONE = ("time_major", "num_constants", "input_dim", "input_length")
_MODELS = ("Functional", "Model", "Sequential")
_SHORT = {
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error",
}
_OPTIMIZER_GONE = ("jit_compile", "is_legacy_optimizer")


@keras.saving.register_keras_serializable("ostinato", "keras2_hard_sigmoid")  # type: ignore[untyped-decorator]
def hard_sigmoid(x: Any) -> Any:
    """Keras 2's `hard_sigmoid`: 0.2 x + 0.5, cut to 0 and 1. Keras 3's has the slope 1/6."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def translated_training(config: Any) -> Any:
    """What a file of Keras 2 says of the training (optimizer, loss, metrics), for Keras 3."""
    if isinstance(config, str):
        return _SHORT.get(config.lower(), config)
    if isinstance(config, list):
        return [translated_training(item) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: translated_training(value) for key, value in config.items()}
    for key in ("metrics", "weighted_metrics"):
        given = config.get(key)
        if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list):
            config[key] = given[0]  # of the one output, in a list of outputs
    own = config.get("config")
    if not isinstance(config.get("class_name"), str) or not isinstance(own, dict):
        return config
    if "inner_optimizer" in own:
        # Of mixed precision; Keras 3 scales the loss by itself, where the policy asks for it.
        return own["inner_optimizer"]
    if config["class_name"] == "MeanMetricWrapper" and isinstance(own.get("fn"), str):
        return own["fn"]  # the metric's name
    if own.get("reduction") == "auto":
        own["reduction"] = "sum_over_batch_size"
    is_loss = "reduction" in own and config["class_name"] != "LossFunctionWrapper"
    gone = ("fn",) if is_loss else _OPTIMIZER_GONE
    own = {key: value for key, value in own.items() if key not in gone}
    return {**config, "class_name": config["class_name"].removeprefix("Custom>"), "config": own}


def translated(config: Any) -> Any:
    """A model's config of Keras 2, with our recurrent layers, for Keras 3.

    All serialised objects inside it come in Keras 3's words, innermost first.

    Raises:
        ValueError: if a recurrent layer has `time_major=True`.
    """
    if not isinstance(config, dict):
        return [translated(item) for item in config] if isinstance(config, list) else config
    if config.get("class_name") in _MODELS and isinstance(config.get("config"), (dict, list)):
        config = _model(config)
    if "compile_config" in config:
        training = translated_training(config["compile_config"]) or {}
        # What was None, as by default, has other defaults now.
        training = {key: value for key, value in training.items() if value is not None}
        config = {**config, "compile_config": training}
    config = {key: translated(value) for key, value in config.items()}
    for key in ("activation", "recurrent_activation"):
        if config.get(key) == "hard_sigmoid":
            config[key] = keras.activations.serialize(hard_sigmoid)
    if "class_name" not in config:
        return config
    if config["class_name"] in ("Policy", "PolicyV1"):
        return config["config"]["name"]
    return _object(config)


def _object(config: dict[str, Any]) -> dict[str, Any]:
    """A serialised object, itself, in Keras 3's words."""
    _at_home(config)
    if _is_kerass(config):
        _recurrent(config)
        config["config"].pop("ragged", None)
        if config["class_name"] != "InputLayer":
            config["config"].pop("batch_input_shape", None)
    return config


def _at_home(config: dict[str, Any]) -> None:
    """Corrects the module of a class that has moved."""
    module = str(config.get("module") or "")
    if not module.startswith(("tf_keras", "keras")):
        return
    if config["class_name"] in ("Functional", "Model"):
        config["module"], config["class_name"] = functional_class().__module__, "Functional"
    else:
        # The optimizers of before Keras 2.11, which have the same arguments.
        config["module"] = module.removeprefix("tf_").replace(".optimizers.legacy", ".optimizers")


def _is_kerass(config: Mapping[str, Any]) -> bool:
    package = str(config.get("module") or "keras").partition(".")[0]
    return package == "keras" and isinstance(config.get("config"), dict)


def _recurrent(config: dict[str, Any]) -> None:
    """Makes a recurrent layer or cell of Keras 2 one of ours."""
    name, own = config["class_name"], config["config"]
    if name in _CUDNN:
        config["class_name"], defaults = _CUDNN[name]
        own.update(defaults)
    elif name not in _RECURRENT + _CELLS:
        if name.startswith("ConvLSTM") and not own.get("time_major"):
            own.pop("time_major", None)
        return
    if own.get("time_major"):
        raise ValueError(
            f"load_model: {name} layer {own.get('name')!r} has time_major=True, so it takes (time, "
            "batch, features), and Keras 3's layers and ours take (batch, time, features). Its "
            "weights are the same: make the model with batch-major layers, and read the file with "
            "its `load_weights`."
        )
    if name in ("GRU", "GRUCell"):
        own.setdefault("reset_after", False)  # older files don't have the option
    for key in _GONE:
        own.pop(key, None)
    if name == "StackedRNNCells":
        own.pop("reverse_state_order", None)
    config.pop("build_config", None)  # of what it was called with; its first call here builds it
    config.update(of_ours({**config, "registered_name": None}))


# --- models ---------------------------------------------------------------------------------


def _model(config: dict[str, Any]) -> dict[str, Any]:
    """A model's config with its graph as Keras 3 has it; its layers still in Keras 2's words."""
    own = config["config"]
    if isinstance(own, list):  # of layers, up to Keras 2.2.2
        own = {"name": "sequential", "layers": own}
    own = dict(own)
    if config["class_name"] == "Sequential":
        own["layers"] = _with_input(own["layers"])
    else:
        models = {layer["name"] for layer in own["layers"] if "layers" in layer["config"]}
        own["layers"] = [_called(layer, models) for layer in own["layers"]]
        for key in ("input_layers", "output_layers"):
            places = _placed(own[key], models)
            # One tensor came in a list, which to Keras 3 is a list of one.
            own[key] = places[0] if isinstance(places, list) and len(places) == 1 else places
    return {**config, "config": own}


def _with_input(layers: list[Any]) -> list[Any]:
    """A Sequential's layers, with an input layer where only the first layer told the shape."""
    first = layers[0] if layers else {"config": {}}
    shape = first["config"].get("batch_input_shape")
    if shape is None or first["class_name"] == "InputLayer":
        return layers
    dtype = first["config"].get("dtype", "float32")
    own = {"batch_shape": shape, "dtype": dtype, "name": f"{first['config']['name']}_input"}
    return [{"module": "keras.layers", "class_name": "InputLayer", "config": own}, *layers]


def _placed(value: Any, models: Collection[str]) -> Any:
    """A nest of places [layer, node, tensor...] with Keras 3's numbers of nodes.

    In Keras 2 the first node of a model inside a model is its own graph, and no call.
    """
    if _is_place(value):
        return [value[0], value[1] - (value[0] in models), *value[2:]]
    if isinstance(value, dict):
        return {key: _placed(item, models) for key, item in value.items()}
    return [_placed(item, models) for item in value] if isinstance(value, list) else value


def _is_place(value: Any) -> bool:
    kinds = (str, int, int)
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and all(isinstance(item, kind) for item, kind in zip(value, kinds, strict=False))
    )


def _called(layer: dict[str, Any], models: Collection[str]) -> dict[str, Any]:
    is_recurrent = layer["class_name"] in (*_RECURRENT, *_CUDNN)
    constants = layer["config"].get("num_constants") or 0
    nodes = _placed(layer["inbound_nodes"], models)
    return {**layer, "inbound_nodes": [_node(node, is_recurrent, constants) for node in nodes]}


def _node(node: Any, is_recurrent: bool, constants: int) -> Any:
    """One call of a layer in a graph, where it's given more than its inputs.

    Keras 2 lists what a layer is called with as [layer, node, tensor, keywords]; states and
    constants of recurrent layers follow the inputs there.
    """
    if not isinstance(node, list) or not all(_is_place(i) and len(i) == 4 for i in node):
        return node
    keywords = {key: _revived(value) for key, value in node[-1][3].items()}
    tensors = [_tensor(item) for item in node]
    if is_recurrent and len(tensors) > 1:
        end = len(tensors) - constants
        given = {"initial_state": tensors[1:end], "constants": tensors[end:]}
        keywords.update({key: value for key, value in given.items() if value})
        tensors = tensors[:1]
    elif not keywords:
        return node
    return {"args": tensors if len(tensors) == 1 else [tensors], "kwargs": keywords}


def _revived(value: Any) -> Any:
    if _is_place(value):
        return _tensor(value)
    return [_revived(item) for item in value] if isinstance(value, list) else value


def _tensor(place: list[Any]) -> dict[str, Any]:
    """A tensor of the graph; Keras looks it up by its place, so its shape isn't needed."""
    history = {"shape": [None], "dtype": "float32", "keras_history": place[:3]}
    return {"class_name": "__keras_tensor__", "config": history}
