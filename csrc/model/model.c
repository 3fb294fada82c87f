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
