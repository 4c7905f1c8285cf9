"""Configs of Keras 2 as configs that Keras 3 reads, with our recurrent layers in them.

Pure: JSON in, JSON out. What isn't about recurrent layers is left to Keras 3, which reads most of
Keras 2's configs, but for what it reads wrongly: `hard_sigmoid` was another function.
"""

import functools
import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from ostinato.conversion import keras2_masks
from ostinato.layers.serialization import of_ours
from ostinato.models.attributes import functional_class

_RECURRENT = ("SimpleRNN", "GRU", "LSTM", "RNN", "Bidirectional")
_CELLS = ("SimpleRNNCell", "GRUCell", "LSTMCell", "StackedRNNCells")
# cuDNN's layers of Keras 2.0 to 2.3, and what they were other than ours by default.
_CUDNN: dict[str, tuple[str, dict[str, Any]]] = {
    "CuDNNLSTM": ("LSTM", {}),
    "CuDNNGRU": ("GRU", {"reset_after": True}),
}
# Arguments of Keras 2 that Keras 3 and we don't have, and that change nothing as they are here.
_GONE = ("time_major", "num_constants", "input_dim", "input_length")
_BUILT_FOR = ("query_shape", "key_shape", "value_shape")  # of MultiHeadAttention
_BUILT_ANEW = ("MultiHeadAttention", "TimeDistributed")
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


def translated(config: Any, custom: Collection[str] = ()) -> Any:
    """A model's config of Keras 2, with our recurrent layers, for Keras 3.

    All serialised objects inside it come in Keras 3's words, innermost first.

    Args:
        config: The config, as JSON.
        custom: The names of classes that aren't Keras's, where they are known.

    Raises:
        ValueError: if a layer can't be said in Keras 3's words: a recurrent one with
            `time_major=True`, one that Keras 3 hasn't, one with arguments that it hasn't.
    """
    return _Translation(custom, makes_masks(config, custom)).of(config)


def makes_masks(config: Any, custom: Collection[str] = ()) -> bool:
    """Whether a mask may arise in a model; a layer of somebody else's may make one."""
    if isinstance(config, list):
        return any(makes_masks(item, custom) for item in config)
    if not isinstance(config, dict):
        return False
    own = config.get("config")
    if config.get("class_name") == "Masking" or _is_the_users(config, custom):
        return True
    if isinstance(own, dict) and own.get("mask_zero"):
        return True
    return any(makes_masks(v, custom) or (k == "mask" and bool(v)) for k, v in config.items())


def _is_the_users(config: Mapping[str, Any], custom: Collection[str]) -> bool:
    name = config.get("class_name")
    return isinstance(name, str) and (
        name in custom
        or ">" in f"{name}{config.get('registered_name')}"
        or keras.saving.get_registered_object(name) is not None
    )


@dataclass(frozen=True)
class _Translation:
    """One model's.

    Attributes:
        custom: The names of classes that aren't Keras's.
        has_masks: Whether layers get Keras 2's rule of masks.
    """

    custom: Collection[str]
    has_masks: bool

    def of(self, config: Any, is_whole: bool = True) -> Any:
        """Translates a config; `is_whole` for the whole model's, not for a part."""
        if isinstance(config, list):
            return [self.of(item, is_whole=False) for item in config]
        if not isinstance(config, dict):
            return config
        if config.get("class_name") in _MODELS and isinstance(config.get("config"), (dict, list)):
            config = _model(config)
        if "compile_config" in config:
            training = translated_training(config["compile_config"]) or {}
            # What was None, as by default, has other defaults now.
            training = {key: value for key, value in training.items() if value is not None}
            config = {**config, "compile_config": training}
        config = {key: self.of(value, is_whole=False) for key, value in config.items()}
        for key in ("activation", "recurrent_activation"):
            if config.get(key) == "hard_sigmoid":
                config[key] = keras.activations.serialize(hard_sigmoid)
        return self._object(config, is_whole) if "class_name" in config else config

    def _object(self, config: dict[str, Any], is_whole: bool) -> Any:
        """A serialised object, itself; what it holds is translated."""
        if config["class_name"] in ("Policy", "PolicyV1"):
            return config["config"]["name"]
        config = _object(config)
        if not _is_kerass(config) or _is_the_users(config, self.custom):
            return config
        self._check_known(config)
        if config["class_name"] == "Lambda":
            _fit_lambda(config["config"])
        _fit_arguments(config)
        if config["class_name"] in _BUILT_ANEW:
            config.pop("build_config", None)  # its shape isn't what Keras 3's `build` takes
        # By a name, since there's an initializer that is called Identity, too.
        is_layer = not is_whole and "name" in config["config"]
        if self.has_masks and is_layer and config["class_name"] in keras2_masks.CLASSES:
            cls = keras2_masks.CLASSES[config["class_name"]]
            name = keras.saving.get_registered_name(cls)
            config.update(module=cls.__module__, class_name=cls.__name__, registered_name=name)
        return config

    def _check_known(self, config: dict[str, Any]) -> None:
        """Refuses a layer that Keras 3 hasn't; only layers have calls in a graph, or a name."""
        name, own = config["class_name"], config["config"]
        is_layer = "inbound_nodes" in config or {"name", "trainable"} <= own.keys()
        if is_layer and name not in _MODELS and not hasattr(keras.layers, name):
            raise ValueError(
                f"load_model: {name} layer {own.get('name')!r}: Keras 3 has no such layer. If it "
                "is a class of yours, give it in `custom_objects`."
            )


def _fit_lambda(own: dict[str, Any]) -> None:
    """A Lambda's functions in Keras 3's words: code, in a list, or a name.

    Raises:
        ValueError: if it makes a mask, which Keras 3 reads from no file.
    """
    if own.get("mask") is not None:
        raise ValueError(
            f"load_model: Lambda layer {own.get('name')!r}: it makes a mask, by its argument "
            "`mask`, which Keras 3 reads from no file. Make a layer with a `compute_mask` of it."
        )
    for key in ("function", "output_shape"):
        if own.get(f"{key}_type") == "lambda":
            # Keras takes all three as the code, too, and then knows JSON's lists for tuples.
            code = {"code": own[key], "defaults": None, "closure": None}
            own[key] = {"class_name": "__lambda__", "config": code}
    for gone in ("function_type", "module", "output_shape_type", "output_shape_module", "mask"):
        own.pop(gone, None)


def _fit_arguments(config: dict[str, Any]) -> None:
    """Leaves out arguments that Keras 3's class doesn't have, where they say nothing.

    Raises:
        ValueError: if one says something.
    """
    cls, own = _classes().get(config["class_name"]), config["config"]
    if cls is None or config["class_name"] in (*_MODELS, "InputLayer"):
        return
    if config["class_name"] == "BatchNormalization" and isinstance(own.get("axis"), list):
        own["axis"] = own["axis"][0] if len(own["axis"]) == 1 else own["axis"]
    accepted, takes_others = _parameters(cls)
    has_no_kernel = "depthwise_initializer" in own  # but two, with arguments of their own
    for key in own.keys() - accepted:
        says_nothing = (
            own[key] is None
            or own[key] is False
            or key in _BUILT_FOR
            or (key, own[key]) == ("groups", 1)
            or (key.startswith("kernel_") and has_no_kernel)
            or (key == "trainable" and not takes_others)  # a layer of Keras 3 without weights
        )
        if says_nothing:
            del own[key]
        elif not takes_others:
            raise ValueError(
                f"load_model: {config['class_name']} layer {own.get('name')!r}: Keras 3's has no "
                f"argument {key!r}, which is {own[key]!r} here."
            )


@functools.cache
def _classes() -> dict[str, type]:
    """Keras's layers by name, of which nothing is used here but which arguments they take."""
    return dict(inspect.getmembers(keras.layers, inspect.isclass))


def _parameters(cls: type) -> tuple[set[str], bool]:
    """The names of a class's arguments, and whether it takes others (then Keras judges them)."""
    names: set[str] = set()
    for base in cls.__mro__:
        if base is keras.layers.Layer:
            break
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            names |= parameters.keys()
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                return names, False
    return names, True


def _object(config: dict[str, Any]) -> dict[str, Any]:
    """A serialised object, itself, in Keras 3's words."""
    _at_home(config)
    if _is_kerass(config):
        _recurrent(config)
        config["config"].pop("ragged", None)
        if config["class_name"] != "InputLayer":
            config["config"].pop("batch_input_shape", None)
    return config


def names_in(config: Any) -> Iterator[str]:
    """The names of all layers of a model, however deep."""
    if isinstance(config, list):
        for item in config:
            yield from names_in(item)
    elif isinstance(config, dict):
        name = config.get("name")
        if isinstance(name, str):
            yield name
        for value in config.values():
            yield from names_in(value)


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
