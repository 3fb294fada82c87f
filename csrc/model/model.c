#include "model/model.h"

#include <stdlib.h>

#include "base/intmath.h"

pe_status pe_model_allocate(pe_model *model) {
    pe_stack *stacks[] = {&model->encoder, &model->decoder};
    for (int i = 0; i < 2; i++) {
        if (stacks[i]->n == 0) continue;
        stacks[i]->layers = calloc((size_t)stacks[i]->n, sizeof *stacks[i]->layers);
        if (stacks[i]->layers) continue;
        pe_model_free(model);
        return PE_NO_MEMORY;
    }
    if (model->n_heads == 0) return PE_OK;
    model->heads = calloc((size_t)model->n_heads, sizeof *model->heads);
    if (model->heads) return PE_OK;
    pe_model_free(model);
    return PE_NO_MEMORY;
}

void pe_model_free(pe_model *model) {
    free(model->encoder.layers);
    free(model->decoder.layers);
    free(model->heads);
    model->encoder.layers = model->decoder.layers = NULL;
    model->heads = NULL;
}

static pe_linear *chain(pe_linear *last, pe_linear *linear) {
    if (linear->n == 0) return last;
    if (last) last->next = linear;
    return linear;
}

static pe_linear *chain_stack(pe_stack *stack, pe_linear *last) {
    last = chain(last, &stack->embedding.project);
    for (int64_t i = 0; i < stack->n; i++) {
        pe_layer *layer = &stack->layers[i];
        last = chain(last, &layer->self.input);
        last = chain(last, &layer->self.sub.output);
        last = chain(last, &layer->cross.input);
        last = chain(last, &layer->cross.sub.output);
        last = chain(last, &layer->ffn.up);
        last = chain(last, &layer->ffn.sub.output);
    }
    return last;
}

static void chain_all(pe_model *model) {
    pe_linear *last = chain_stack(&model->encoder, NULL);
    for (int64_t i = 0; i < model->decoder.n; i++) last = chain(last, &model->decoder.layers[i].cross.memory);
    chain(chain_stack(&model->decoder, NULL), &model->output);
    for (int64_t i = 0; i < model->n_heads; i++) chain(chain(NULL, &model->heads[i].dense), &model->heads[i].out);
}

static const pe_norm *present(const pe_norm *norm) { return norm->weight ? norm : NULL; }

/* What is read first in a layer, or, behind the last one, of the stack. */
static pe_nexts first_of(const pe_stack *stack, int64_t layer) {
    if (layer == stack->n) return (pe_nexts){.in = present(&stack->final)};
    const pe_layer *next = &stack->layers[layer];
    const pe_norm *beside = stack->placement == PE_PARALLEL ? &next->ffn.sub.norm : NULL;
    return (pe_nexts){.in = present(&next->self.sub.norm), .beside = beside};
}

static void follow(pe_stack *stack) {
    const bool post = stack->placement == PE_POST;
    if (!post) stack->nexts = first_of(stack, 0);
    for (int64_t i = 0; i < stack->n; i++) {
        pe_layer *layer = &stack->layers[i];
        pe_sublayer *subs[] = {&layer->self.sub, &layer->cross.sub, &layer->ffn.sub};
        if (post) {
            for (int k = 0; k < 3; k++) subs[k]->nexts.in = present(&subs[k]->norm);
        } else {
            const bool crosses = layer->cross.input.n > 0;
            if (stack->placement == PE_PARALLEL)
                layer->self.sub.nexts.later = true;
            else
                layer->self.sub.nexts.in = present(crosses ? &layer->cross.sub.norm : &layer->ffn.sub.norm);
            layer->cross.sub.nexts.in = present(&layer->ffn.sub.norm);
            layer->ffn.sub.nexts = first_of(stack, i + 1);
        }
    }
}

/* The group of a self-attention's pages, a new one where no window is like it; -1 where there are too many. */
static int group_of(pe_model *model, int32_t before) {
    for (int g = 0; g < model->n_groups; g++)
        if (model->groups[g].before == before) return g;
    if (model->n_groups == PE_MAX_GROUPS) return -1;
    model->groups[model->n_groups] = (pe_page_group){0, before};
    return model->n_groups++;
}

static int64_t bytes_of(const pe_model *model, const pe_heads *heads) {
    return heads->kv * pe_head_bytes(model->kv, heads->width);
}

static pe_status place_heads(pe_model *model) {
    for (int64_t i = 0; i < model->encoder.n; i++)
        model->encoder_bytes = pe_max(model->encoder_bytes, bytes_of(model, &model->encoder.layers[i].self.heads));
    for (int64_t i = 0; i < model->decoder.n; i++) {
        pe_layer *layer = &model->decoder.layers[i];
        const int group = group_of(model, layer->self.heads.before);
        if (group < 0) return PE_BAD_ARGUMENT;
        layer->self.heads.group = group;
        layer->self.heads.offset = model->groups[group].page_bytes;
        model->groups[group].page_bytes += bytes_of(model, &layer->self.heads);
        if (layer->cross.input.n == 0) continue;
        layer->cross.heads.offset = model->memory_bytes;
        model->memory_bytes += bytes_of(model, &layer->cross.heads);
    }
    return PE_OK;
}

pe_status pe_model_link(pe_model *model) {
    chain_all(model);
    follow(&model->encoder);
    follow(&model->decoder);
    model->ropes.turns = 0;
    for (int i = 0; i < model->ropes.n; i++) {
        model->ropes.offset[i] = model->ropes.turns;
        model->ropes.turns += model->ropes.dims[i];
    }
    return place_heads(model);
}
