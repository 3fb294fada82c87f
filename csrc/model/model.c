#include "model/model.h"

#include <stdlib.h>

pe_status pe_model_allocate(pe_model *model) {
    model->encoder = calloc((size_t)model->config.encoder.layers, sizeof *model->encoder);
    model->decoder = calloc((size_t)model->config.decoder.layers, sizeof *model->decoder);
    if (model->encoder && model->decoder) return PE_OK;
    pe_model_free(model);
    return PE_NO_MEMORY;
}

void pe_model_free(pe_model *model) {
    free(model->encoder);
    free(model->decoder);
    model->encoder = NULL;
    model->decoder = NULL;
}

static pe_linear *chain(pe_linear *last, pe_linear *linear) {
    if (last) last->next = linear;
    return linear;
}

void pe_model_link(pe_model *model) {
    pe_linear *last = NULL;
    for (int64_t i = 0; i < model->config.encoder.layers; i++) {
        pe_encoder_layer *layer = &model->encoder[i];
        last = chain(last, &layer->self_qkv);
        last = chain(last, &layer->self_output);
        last = chain(last, &layer->ffn_up);
        last = chain(last, &layer->ffn_down);
    }
    for (int64_t i = 0; i < model->config.decoder.layers; i++) last = chain(last, &model->decoder[i].cross_kv);
    last = NULL;
    for (int64_t i = 0; i < model->config.decoder.layers; i++) {
        pe_decoder_layer *layer = &model->decoder[i];
        last = chain(last, &layer->self_qkv);
        last = chain(last, &layer->self_output);
        last = chain(last, &layer->cross_q);
        last = chain(last, &layer->cross_output);
        last = chain(last, &layer->ffn_up);
        last = chain(last, &layer->ffn_down);
    }
    chain(last, &model->output);
}
