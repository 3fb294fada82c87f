# A model: packed tensors, bound as what the core multiplies with.

# The most products of an unsigned and a signed byte that an int32 holds; see csrc/kernels/x86/gemm_avx512vnni.c.
MAX_K = (1 << 31) // (255 * 127)

ACTIVATIONS = {
    "relu": PE_RELU,
    "gelu": PE_GELU,
    "gelu_tanh": PE_GELU_TANH,
    "silu": PE_SILU,
    "tanh": PE_TANH,
    "sigmoid": PE_SIGMOID,
}


cdef class Model:
    """A model's weights, bound to the arrays that hold them, and the kernels that run it. Read-only once made.

    config     a pyengine.canonical.config.ModelConfig
    tensors    packed tensors by name, as modelfile/layout.py lays them out; the dtype of a matrix tells its type
    positions  float32 [max_positions, width]
    kv         "int8" or "float32": how keys and values are cached
    isa        None, or the name of an instruction set; OptionError if this CPU lacks it
    """

    cdef pe_model model
    cdef object arrays  # what the C structs point into
    cdef dict layers  # packed name of each linear layer, by the address of its struct
    cdef readonly str kv

    def __cinit__(self, config, tensors, positions, *, str kv, isa=None):
        self.arrays = []
        self.layers = {}
        self.kv = kv
        load_kernels(&self.model.kernels, isa)
        self.model.kv = PE_KV_Q8 if kv == "int8" else PE_KV_F32
        self._set_config(config)
        if pe_model_allocate(&self.model) != PE_OK:
            raise EngineError("out of memory")
        self._bind(config, tensors, positions)
        pe_model_link(&self.model)

    def __dealloc__(self):
        pe_model_free(&self.model)

    @property
    def isa(self):
        """The instruction set of the kernels in use."""
        return self.model.kernels.isa.decode()

    cdef _set_config(self, config):
        cdef pe_config *c = &self.model.config
        for stack in (config.encoder, config.decoder):
            if not 1 <= stack.head_width <= PE_MAX_HEAD_DIM:
                raise EngineError(f"a head of width {stack.head_width}: expected 1 to {PE_MAX_HEAD_DIM}")
            for layer in stack.layers:
                heads = (layer.heads,) if layer.cross_heads is None else (layer.heads, layer.cross_heads)
                if min(heads) < 1:
                    raise EngineError(f"an attention of {min(heads)} heads: expected at least 1")
                widest = max(config.width, layer.ffn_width, max(heads) * stack.head_width)
                if widest > MAX_K:
                    raise EngineError(f"a width of {widest}: expected at most {MAX_K}")
        c.width = config.width
        c.encoder = pe_stack(len(config.encoder.layers), config.encoder.head_width)
        c.decoder = pe_stack(len(config.decoder.layers), config.decoder.head_width)
        c.source_vocab = config.source_vocab
        c.target_vocab = config.target_vocab
        c.max_positions = config.max_positions
        c.activation = ACTIVATIONS[config.activation]
        c.embedding_scale = config.embedding_scale
        c.norm_epsilon = config.norm_epsilon

    cdef _bind(self, config, tensors, positions):
        cdef int64_t width = config.width, i, inner, ffn, first = 0, cross_first = 0
        cdef pe_encoder_layer *e
        cdef pe_decoder_layer *d
        self.model.positions = <const float *>self._address(positions, np.float32, (config.max_positions, width))
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
            inner, ffn = layer.heads * config.encoder.head_width, layer.ffn_width
            e.self_heads = pe_heads(layer.heads, 0)  # the encoder's pages hold one layer at a time
            self._bind_linear(&e.self_qkv, tensors, name + "self_attention.qkv", 3 * inner, width, True)
            self._bind_linear(&e.self_output, tensors, name + "self_attention.output", width, inner, True)
            self._bind_norm(&e.self_norm, tensors, name + "self_attention.norm", width)
            self._bind_linear(&e.ffn_up, tensors, name + "ffn.up", ffn, width, True)
            self._bind_linear(&e.ffn_down, tensors, name + "ffn.down", width, ffn, True)
            self._bind_norm(&e.ffn_norm, tensors, name + "ffn.norm", width)
        for i, layer in enumerate(config.decoder.layers):
            d = &self.model.decoder[i]
            name = f"decoder.layers.{i}."
            inner, ffn = layer.heads * config.decoder.head_width, layer.ffn_width
            d.self_heads = pe_heads(layer.heads, first)
            first += layer.heads
            self._bind_linear(&d.self_qkv, tensors, name + "self_attention.qkv", 3 * inner, width, True)
            self._bind_linear(&d.self_output, tensors, name + "self_attention.output", width, inner, True)
            self._bind_norm(&d.self_norm, tensors, name + "self_attention.norm", width)
            inner = layer.cross_heads * config.decoder.head_width
            d.cross_heads = pe_heads(layer.cross_heads, cross_first)
            cross_first += layer.cross_heads
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
