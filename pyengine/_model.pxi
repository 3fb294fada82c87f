# A model: packed tensors, bound as what the core multiplies with.

ACTIVATIONS = {
    "relu": PE_RELU,
    "gelu": PE_GELU,
    "gelu_tanh": PE_GELU_TANH,
    "quick_gelu": PE_QUICK_GELU,
    "silu": PE_SILU,
    "tanh": PE_TANH,
    "sigmoid": PE_SIGMOID,
    "linear": PE_IDENTITY,
}


def lacks(config):
    """What a configuration has that the structs below do not, a few words each."""
    if config.encoder is None or config.decoder is None:
        yield "one stack only"
        return
    stacks = (config.encoder, config.decoder)
    layers = [layer for stack in stacks for layer in stack.layers]
    if config.embedding_width not in (None, config.width):
        yield "an embedding_width other than its width"
    if not config.output_bias:
        yield "no output_bias"
    if config.logit_soft_cap is not None:
        yield "a logit_soft_cap"
    for stack in stacks:
        for name, value in (("placement", "post"), ("norm", "layer"), ("positions", "table")):
            if getattr(stack, name) != value:
                yield f"{name} \"{getattr(stack, name)}\""
        for name in ("embed_norm", "types", "relative_reach", "slopes"):
            if getattr(stack, name):
                yield name
        attentions = [each for layer in stack.layers for _, each in layer.attentions()]
        yield from different("head_width", [each.head_width for each in attentions])
    for name in ("norm_epsilon", "max_positions"):
        yield from different(name, [getattr(stack, name) for stack in stacks])
    yield from different("activation", [layer.feed_forward.activation for layer in layers])
    for layer in layers:
        yield from lacks_of_layer(layer)


def lacks_of_layer(layer):
    for _, attention in layer.attentions():
        if attention.kv_heads != attention.heads:
            yield "fewer kv_heads than heads"
        if not (attention.qkv_bias and attention.output_bias):
            yield "attention without bias"
        if attention.scale != np.float32(1) / np.sqrt(np.float32(attention.head_width)):
            yield "a scale other than 1 / sqrt(head_width)"
        for name in ("qk_norm", "rope", "window", "soft_cap"):
            if getattr(attention, name) not in (None, False):
                yield name
    if layer.feed_forward.gated:
        yield "a gated feed-forward"
    if not layer.feed_forward.bias:
        yield "feed-forward without bias"
    if layer.feed_forward.activation not in ACTIVATIONS:
        yield f"activation \"{layer.feed_forward.activation}\""


def different(name, values):
    if len(set(values)) > 1:
        yield f"{name} that differs ({', '.join(map(str, sorted(set(values))))})"


cdef class Model:
    """A model's weights, bound to the arrays that hold them, and the kernels that run it. Read-only once made.

    config     a pyengine.canonical.config.ModelConfig
    tensors    packed tensors by name, as modelfile/layout.py lays them out; the dtype of a matrix tells its type
    kv         "int8" or "float32": how keys and values are cached
    isa        None, or the name of an instruction set; OptionError if this CPU lacks it
    EngineError names every trait of the configuration that the core lacks.
    """

    cdef pe_model model
    cdef object arrays  # what the C structs point into
    cdef dict layers  # packed name of each linear layer, by the address of its struct
    cdef readonly str kv

    def __cinit__(self, config, tensors, *, str kv, isa=None):
        lacking = list(dict.fromkeys(lacks(config)))
        if lacking:
            raise EngineError(f"the engine cannot run this model yet, it has {'; '.join(lacking)}")
        self.arrays = []
        self.layers = {}
        self.kv = kv
        load_kernels(&self.model.kernels, isa)
        self.model.kv = PE_KV_Q8 if kv == "int8" else PE_KV_F32
        self._set_config(config)
        if pe_model_allocate(&self.model) != PE_OK:
            raise EngineError("out of memory")
        self._bind(config, tensors)
        pe_model_link(&self.model)

    def __dealloc__(self):
        pe_model_free(&self.model)

    @property
    def isa(self):
        """The instruction set of the kernels in use."""
        return self.model.kernels.isa.decode()

    cdef _set_config(self, config):
        cdef pe_config *c = &self.model.config
        c.width = config.width
        first = config.encoder.layers[0]
        c.encoder = pe_stack(len(config.encoder.layers), first.self_attention.head_width)
        c.decoder = pe_stack(len(config.decoder.layers), config.decoder.layers[0].self_attention.head_width)
        c.source_vocab = config.source_vocab
        c.target_vocab = config.target_vocab
        c.max_positions = config.encoder.max_positions
        c.activation = ACTIVATIONS[first.feed_forward.activation]
        c.embedding_scale = config.embedding_scale
        c.norm_epsilon = config.encoder.norm_epsilon

    cdef _bind(self, config, tensors):
        cdef int64_t width = config.width, i, inner, ffn, first = 0, cross_first = 0
        cdef pe_encoder_layer *e
        cdef pe_decoder_layer *d
        self.model.source_positions = self._floats(tensors, "encoder.positions", config.encoder.max_positions * width)
        self.model.target_positions = self._floats(tensors, "decoder.positions", config.decoder.max_positions * width)
        self._bind_linear(&self.model.target_embed, tensors, "decoder.embed", config.target_vocab, width, False)
        if config.share_embeddings:
            self.model.source_embed = self.model.target_embed
        else:
            self._bind_linear(&self.model.source_embed, tensors, "encoder.embed", config.source_vocab, width, False)
        if PE_WEIGHT_Q8S in (self.model.target_embed.type, self.model.source_embed.type):
            raise EngineError("embedding tables: expected dense matrices, found sparse ones")
        if config.tie_output:
            self.model.output = self.model.target_embed
            self.model.output.bias = self._floats(tensors, "output.bias", config.target_vocab)
            self.layers[<uintptr_t>&self.model.output] = "output"
        else:
            self._bind_linear(&self.model.output, tensors, "output", config.target_vocab, width, True)
            if self.model.output.type == PE_WEIGHT_Q8S:
                raise EngineError("output layer: expected a dense matrix, found a sparse one")
        for i, layer in enumerate(config.encoder.layers):
            e = &self.model.encoder[i]
            name = f"encoder.layers.{i}."
            heads, ffn = layer.self_attention.heads, layer.feed_forward.width
            inner = heads * layer.self_attention.head_width
            e.self_heads = pe_heads(heads, 0)  # the encoder's pages hold one layer at a time
            self._bind_linear(&e.self_qkv, tensors, name + "self_attention.qkv", 3 * inner, width, True)
            self._bind_linear(&e.self_output, tensors, name + "self_attention.output", width, inner, True)
            self._bind_norm(&e.self_norm, tensors, name + "self_attention.norm", width)
            self._bind_linear(&e.ffn_up, tensors, name + "ffn.up", ffn, width, True)
            self._bind_linear(&e.ffn_down, tensors, name + "ffn.down", width, ffn, True)
            self._bind_norm(&e.ffn_norm, tensors, name + "ffn.norm", width)
        for i, layer in enumerate(config.decoder.layers):
            d = &self.model.decoder[i]
            name = f"decoder.layers.{i}."
            heads, ffn = layer.self_attention.heads, layer.feed_forward.width
            inner = heads * layer.self_attention.head_width
            d.self_heads = pe_heads(heads, first)
            first += heads
            self._bind_linear(&d.self_qkv, tensors, name + "self_attention.qkv", 3 * inner, width, True)
            self._bind_linear(&d.self_output, tensors, name + "self_attention.output", width, inner, True)
            self._bind_norm(&d.self_norm, tensors, name + "self_attention.norm", width)
            heads = layer.cross_attention.heads
            inner = heads * layer.cross_attention.head_width
            d.cross_heads = pe_heads(heads, cross_first)
            cross_first += heads
            self._bind_linear(&d.cross_q, tensors, name + "cross_attention.q", inner, width, True)
            self._bind_linear(&d.cross_kv, tensors, name + "cross_attention.kv", 2 * inner, width, True)
            self._bind_linear(&d.cross_output, tensors, name + "cross_attention.output", width, inner, True)
            self._bind_norm(&d.cross_norm, tensors, name + "cross_attention.norm", width)
            self._bind_linear(&d.ffn_up, tensors, name + "ffn.up", ffn, width, True)
            self._bind_linear(&d.ffn_down, tensors, name + "ffn.down", width, ffn, True)
            self._bind_norm(&d.ffn_norm, tensors, name + "ffn.norm", width)

    cdef const void *_address(self, array, dtype, shape) except? NULL:
        """Where an array's data lies; it must be exactly what the structs say. The array is kept alive."""
        if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
            raise EngineError(f"expected a {np.dtype(dtype)} array {shape}, found {array.dtype} {array.shape}")
        self.arrays.append(array)
        return <const void *><uintptr_t>array.ctypes.data

    cdef const float *_floats(self, tensors, name, int64_t n) except? NULL:
        return <const float *>self._address(tensors[name], np.float32, (round_up(n, 16),))

    cdef _bind_norm(self, pe_norm *norm, tensors, name, int64_t width):
        norm.weight = self._floats(tensors, name + ".weight", width)
        norm.bias = self._floats(tensors, name + ".bias", width)

    cdef _bind_linear(self, pe_linear *linear, tensors, name, int64_t n, int64_t k, bint has_bias):
        cdef int64_t blocks = round_up(n, 16) // 16
        linear.n = n
        linear.k = k
        self.layers[<uintptr_t>linear] = name
        weight = tensors[name + ".weight"]
        if name + ".line_start" in tensors:
            self._bind_sparse(linear, tensors, name, weight, blocks)
        elif weight.dtype == np.int8:
            self._bind_int8(linear, tensors, name, weight, blocks)
        elif weight.dtype == np.uint8:
            self._bind_int4(linear, tensors, name, weight, blocks)
        else:
            linear.type = PE_WEIGHT_F32
            linear.w = self._address(weight, np.float32, (blocks, round_up(k, 4), 16))
        if has_bias:
            linear.bias = self._floats(tensors, name + ".bias", n)

    cdef _bind_int8(self, pe_linear *linear, tensors, name, weight, int64_t blocks):
        cdef int64_t k = round_up(linear.k, 4)
        cdef int32_t[::1] sums
        cdef bint valid
        self.model.int8_rows = True
        linear.type = PE_WEIGHT_Q8
        linear.w = self._address(weight, np.int8, (blocks, k // 4, 16, 4))
        linear.scale = self._floats(tensors, name + ".scale", linear.n)
        sums = array = np.empty(blocks * 16, np.int32)
        linear.sum = <const int32_t *>self._address(array, np.int32, (blocks * 16,))
        with nogil:
            valid = self.model.kernels.channel_sums(<const int8_t *>linear.w, k, blocks, &sums[0])
        if not valid:
            raise ModelFileError(f"tensor {name}.weight: expected values in [-127, 127], found -128")

    cdef _bind_sparse(self, pe_linear *linear, tensors, name, weight, int64_t blocks):
        """The tables must be valid, see modelfile.layout.check_lines."""
        starts, quads = tensors[name + ".line_start"], tensors[name + ".line_quad"]
        cdef int64_t lines = weight.shape[0], block, first, end
        cdef const int8_t *line
        cdef int32_t[::1] sums
        cdef bint valid = True
        self.model.int8_rows = True
        linear.type = PE_WEIGHT_Q8S
        linear.w = self._address(weight, np.int8, (lines, 16, 4))
        linear.scale = self._floats(tensors, name + ".scale", linear.n)
        linear.line_start = <const int32_t *>self._address(starts, np.int32, (round_up(blocks + 1, 16),))
        linear.line_quad = <const uint16_t *>self._address(quads, np.uint16, (round_up(lines, 32),))
        sums = array = np.empty(blocks * 16, np.int32)
        linear.sum = <const int32_t *>self._address(array, np.int32, (blocks * 16,))
        with nogil:
            for block in range(blocks):
                first, end = linear.line_start[block], linear.line_start[block + 1]
                line = <const int8_t *>linear.w + first * 64
                valid &= self.model.kernels.channel_sums(line, (end - first) * 4, 1, &sums[block * 16])
        if not valid:
            raise ModelFileError(f"tensor {name}.weight: expected values in [-127, 127], found -128")

    cdef _bind_int4(self, pe_linear *linear, tensors, name, weight, int64_t blocks):
        scales = tensors[name + ".group_scale"]
        groups = scales.shape[1]
        # Fits one group only: K padded to so many groups of 32, 64 or 128 columns, all of them needed.
        fits = [group for group in (32, 64, 128) if weight.shape[1] * 8 == groups * group]
        if len(fits) != 1:
            raise EngineError(f"{name}: {weight.shape[1] * 8} columns in {groups} groups: expected 32, 64 or 128 each")
        self.model.int8_rows = True
        linear.type = PE_WEIGHT_Q4
        linear.group = fits[0]
        linear.w = self._address(weight, np.uint8, (blocks, round_up(linear.k, linear.group) // 8, 16, 4))
        linear.scale = self._floats(tensors, name + ".scale", linear.n)
        shape = (round_up(blocks, 2), groups, 16)
        linear.group_scale = <const uint16_t *>self._address(scales, np.float16, shape)
        zeros = tensors.get(name + ".group_zero")
        if zeros is not None:
            linear.group_zero = <const uint8_t *>self._address(zeros, np.uint8, (round_up(blocks, 4), groups, 16))
