# A model: packed tensors, bound as what the core multiplies with.

# The most products of an unsigned and a signed byte that an int32 holds; see csrc/kernels/x86/gemm_avx512vnni.c.
MAX_K = (1 << 31) // (255 * 127)

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
POOLS = {"none": PE_POOL_NONE, "cls": PE_POOL_FIRST, "last": PE_POOL_LAST, "mean": PE_POOL_MEAN}
PLACEMENTS = {"post": PE_POST, "pre": PE_PRE, "parallel": PE_PARALLEL}
# Of weights that are no integers; bfloat16, which NumPy lacks, is the upper half of a float32.
FLOATS = {
    np.dtype(np.float32): PE_WEIGHT_F32,
    np.dtype(np.uint16): PE_WEIGHT_BF16,
    np.dtype(np.float16): PE_WEIGHT_F16,
}
NORMS = {"layer": PE_LAYER_NORM, "rms": PE_RMS_NORM}


cdef class Model:
    """A model's weights, bound to the arrays that hold them, and the kernels that run it. Read-only once made.

    config     a pyengine.canonical.config.ModelConfig
    tensors    packed tensors by name, as modelfile/layout.py lays them out; the dtype of a matrix tells its type
    kv         "int8" or "float32": how keys and values are cached
    isa        None, or the name of an instruction set; OptionError if this CPU lacks it
    """

    cdef pe_model model
    cdef object arrays  # what the C structs point into
    cdef dict layers  # packed name of each linear layer, by the address of its struct
    cdef dict rope_of, head_of  # name -> number
    cdef readonly str kv
    cdef readonly int64_t width

    def __cinit__(self, config, tensors, *, str kv, isa=None):
        self.arrays = []
        self.layers = {}
        self.kv = kv
        self.width = self.model.width = config.width
        self.model.hadamard = config.hadamard
        load_kernels(&self.model.kernels, isa)
        self.model.kv = PE_KV_Q8 if kv == "int8" else PE_KV_F32
        self.model.encoder.n = 0 if config.encoder is None else len(config.encoder.layers)
        self.model.decoder.n = 0 if config.decoder is None else len(config.decoder.layers)
        self.model.n_heads = len(config.heads)
        if pe_model_allocate(&self.model) != PE_OK:
            raise EngineError("out of memory")
        self._bind_ropes(config, tensors)
        if config.decoder is not None:
            self._bind_stack(&self.model.decoder, config, "decoder", config.decoder, config.target_vocab, tensors)
            self._bind_output(config, tensors)
        if config.encoder is not None:
            self._bind_stack(&self.model.encoder, config, "encoder", config.encoder, config.source_vocab, tensors)
        self.head_of = {name: i for i, name in enumerate(config.heads)}
        for name, i in self.head_of.items():
            self._bind_head(&self.model.heads[i], config, config.heads[name], f"head.{name}", tensors)
        if pe_model_link(&self.model) != PE_OK:
            raise EngineError(f"windows of more than {PE_MAX_GROUPS} widths in one decoder")

    def __dealloc__(self):
        pe_model_free(&self.model)

    @property
    def isa(self):
        """The instruction set of the kernels in use."""
        return self.model.kernels.isa.decode()

    cdef _bind_ropes(self, config, tensors):
        self.rope_of = {name: i for i, name in enumerate(config.ropes)}
        if len(self.rope_of) > PE_MAX_ROPES:
            raise EngineError(f"{len(self.rope_of)} sets of rotary frequencies: expected at most {PE_MAX_ROPES}")
        self.model.ropes.n = len(self.rope_of)
        for name, i in self.rope_of.items():
            rope = config.ropes[name]
            self.model.ropes.dims[i] = rope.dims
            self.model.ropes.factor[i] = rope.factor
            self.model.ropes.sets[i] = len(rope.lengths) + 1
            frequencies = self.model.ropes.sets[i] * (rope.dims // 2)
            self.model.ropes.frequencies[i] = self._floats(tensors, f"rope.{name}.frequencies", frequencies)

    cdef _bind_output(self, config, tensors):
        cdef pe_linear *output = &self.model.output
        self.model.logit_soft_cap = config.logit_soft_cap or 0.0
        if config.tie_output:
            output[0] = self.model.decoder.embedding.table
            self.layers[<uintptr_t>output] = "output"
            if config.output_bias:
                output.bias = self._floats(tensors, "output.bias", config.target_vocab)
        else:
            self._bind_linear(output, tensors, "output", config.target_vocab, config.width, config.output_bias)
        if output.type == PE_WEIGHT_Q8S:
            raise EngineError("output layer: expected a dense matrix, found a sparse one")

    cdef _bind_head(self, pe_head *head, config, shape, str name, tensors):
        cdef int64_t width = config.width
        tied = shape.out == "vocabulary"
        head.pool = POOLS[shape.pool]
        head.activation = ACTIVATIONS[shape.activation]
        if shape.dense:
            width = (config.embedding_width or width) if tied else width
            self._bind_linear(&head.dense, tensors, name + ".dense", width, config.width, True)
        if shape.norm:
            self._bind_norm(&head.norm, config.encoder, tensors, name + ".norm", width)
        if tied:
            head.out = self.model.encoder.embedding.table
            head.out.bias = self._floats(tensors, name + ".out.bias", config.source_vocab)
            self.layers[<uintptr_t>&head.out] = name + ".out"
        elif shape.out is not None:
            self._bind_linear(&head.out, tensors, name + ".out", shape.out, width, True)

    cdef const pe_head *_head(self, name) except NULL:
        if name not in self.head_of:
            known = ", ".join(self.head_of) or "none"
            raise EngineError(f"a step was refused: head {name!r:.80}: expected one of the model's ({known})")
        return &self.model.heads[<int64_t>self.head_of[name]]

    cdef _bind_stack(self, pe_stack *stack, config, str name, shape, int64_t vocab, tensors):
        cdef int64_t i, heads = shape.layers[0].self_attention.heads
        stack.max_positions = shape.max_positions
        stack.vocab = vocab
        stack.placement = PLACEMENTS[shape.placement]
        stack.norm_kind = NORMS[shape.norm]
        stack.epsilon = shape.norm_epsilon
        self._bind_embedding(&stack.embedding, config, name, shape, vocab, tensors)
        if shape.final_norm:
            self._bind_norm(&stack.final, shape, tensors, name + ".norm", config.width)
        if shape.relative_reach:
            stack.biases.reach = shape.relative_reach
            stack.biases.relative = self._floats(tensors, name + ".relative", heads * (2 * shape.relative_reach + 33))
        if shape.slopes:
            stack.biases.slopes = self._floats(tensors, name + ".slopes", heads)
        for i, layer in enumerate(shape.layers):
            self._bind_layer(&stack.layers[i], config.width, shape, layer, f"{name}.layers.{i}.", tensors)

    cdef _bind_embedding(self, pe_embedding *e, config, str name, shape, int64_t vocab, tensors):
        cdef int64_t width = config.embedding_width or config.width
        if name == "encoder" and config.share_embeddings:
            e.table = self.model.decoder.embedding.table
        else:
            self._bind_linear(&e.table, tensors, name + ".embed", vocab, width, False)
        if e.table.type == PE_WEIGHT_Q8S:
            raise EngineError("embedding tables: expected dense matrices, found sparse ones")
        e.scale = config.embedding_scale
        e.hadamard = config.hadamard and config.tie_output
        if width != config.width:
            self._bind_linear(&e.project, tensors, name + ".embed.project", config.width, width, True)
        if shape.positions == "table":
            e.positions = self._floats(tensors, name + ".positions", shape.max_positions * width)
        if shape.types:
            e.n_types = shape.types
            e.types = self._floats(tensors, name + ".types", shape.types * width)
        if shape.embed_norm:
            self._bind_norm(&e.norm, shape, tensors, name + ".embed.norm", width)

    cdef _bind_layer(self, pe_layer *l, int64_t width, shape, layer, str name, tensors):
        cdef int64_t inner, kv, ffn = layer.feed_forward.width
        a = layer.self_attention
        inner, kv = a.heads * a.head_width, a.kv_heads * a.head_width
        self._bind_attention(&l.self, a, width, shape, name + "self_attention", tensors)
        self._bind_linear(&l.self.input, tensors, name + "self_attention.qkv", inner + 2 * kv, width, a.qkv_bias)
        if layer.cross_attention is not None:
            a = layer.cross_attention
            inner, kv = a.heads * a.head_width, a.kv_heads * a.head_width
            self._bind_attention(&l.cross, a, width, shape, name + "cross_attention", tensors)
            self._bind_linear(&l.cross.input, tensors, name + "cross_attention.q", inner, width, a.qkv_bias)
            self._bind_linear(&l.cross.memory, tensors, name + "cross_attention.kv", 2 * kv, width, a.qkv_bias)
        f = layer.feed_forward
        l.ffn.activation = ACTIVATIONS[f.activation]
        l.ffn.gated = f.gated
        up, rows = ("ffn.gate_up", 2 * round_up(ffn, 16)) if f.gated else ("ffn.up", ffn)
        self._bind_linear(&l.ffn.up, tensors, name + up, rows, width, f.bias)
        self._bind_linear(&l.ffn.sub.output, tensors, name + "ffn.down", width, ffn, f.bias)
        self._bind_norms(&l.ffn.sub, shape, tensors, name + "ffn", width)

    cdef _bind_attention(self, pe_attention *a, shape, int64_t width, stack, str name, tensors):
        cdef pe_heads *heads = &a.heads
        heads.n, heads.kv, heads.width = shape.heads, shape.kv_heads, shape.head_width
        heads.hadamard = self.model.hadamard
        heads.scale = shape.scale / (pe_hadamard_size(shape.head_width) if heads.hadamard else 1)
        heads.soft_cap = shape.soft_cap or 0.0
        heads.rope = -1 if shape.rope is None else self.rope_of[shape.rope]
        heads.before, heads.after = (PE_ALL, PE_ALL) if shape.window is None else shape.window
        heads.epsilon = stack.norm_epsilon
        if shape.qk_norm:
            heads.q_norm = self._floats(tensors, name + ".q_norm.weight", shape.head_width)
            heads.k_norm = self._floats(tensors, name + ".k_norm.weight", shape.head_width)
        inner = shape.heads * shape.head_width
        self._bind_linear(&a.sub.output, tensors, name + ".output", width, inner, shape.output_bias)
        self._bind_norms(&a.sub, stack, tensors, name, width)

    cdef _bind_norms(self, pe_sublayer *sub, stack, tensors, str name, int64_t width):
        self._bind_norm(&sub.norm, stack, tensors, name + ".norm", width)
        if stack.after_norms:
            self._bind_norm(&sub.after, stack, tensors, name + ".after", width)

    cdef _bind_norm(self, pe_norm *norm, stack, tensors, str name, int64_t width):
        norm.weight = self._floats(tensors, name + ".weight", width)
        if stack.norm == "layer":
            norm.bias = self._floats(tensors, name + ".bias", width)

    cdef const void *_address(self, array, dtype, shape) except? NULL:
        """Where an array's data lies; it must be exactly what the structs say. The array is kept alive."""
        if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
            raise EngineError(f"expected a {np.dtype(dtype)} array {shape}, found {array.dtype} {array.shape}")
        self.arrays.append(array)
        return <const void *><uintptr_t>array.ctypes.data

    cdef const float *_floats(self, tensors, name, int64_t n) except? NULL:
        return <const float *>self._address(tensors[name], np.float32, (round_up(n, 16),))

    cdef _bind_linear(self, pe_linear *linear, tensors, name, int64_t n, int64_t k, bint has_bias):
        cdef int64_t blocks = round_up(n, 16) // 16
        if k > MAX_K:
            raise EngineError(f"{name}: a width of {k}: expected at most {MAX_K}")
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
            dtype = weight.dtype if weight.dtype in FLOATS else np.dtype(np.float32)
            linear.type = FLOATS[dtype]
            linear.w = self._address(weight, dtype, (blocks, round_up(k, 4), 16))
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
