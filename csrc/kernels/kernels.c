#include "kernels/kernels.h"

#include <string.h>

#include "base/cpu.h"

typedef struct isa_entry {
    const char *name;
    void (*overlay)(pe_kernels *table);
} isa_entry;

/* Ascending: each builds on those before it. */
static const isa_entry ISAS[] = {
    {"ref", pe_kernels_overlay_ref},
#if defined(__x86_64__)
    {"avx2", pe_kernels_overlay_avx2},
    {"avx512vnni", pe_kernels_overlay_avx512vnni},
#endif
};
enum { N_ISAS = sizeof ISAS / sizeof ISAS[0] };

const pe_isa *pe_isa_list(int *count) {
    static pe_isa list[N_ISAS];
    const pe_cpu cpu = pe_cpu_detect();
    const bool available[] = {true, cpu.avx2, cpu.avx512vnni};
    for (int i = 0; i < N_ISAS; i++) {
        list[i].name = ISAS[i].name;
        list[i].available = available[i];
    }
    *count = N_ISAS;
    return list;
}

pe_status pe_kernels_init(pe_kernels *table, const char *isa) {
    int count;
    const pe_isa *list = pe_isa_list(&count);
    int chosen = -1;
    for (int i = 0; i < count; i++)
        if (list[i].available && (!isa || strcmp(isa, list[i].name) == 0)) chosen = i;
    if (chosen < 0) return PE_BAD_ARGUMENT;
    memset(table, 0, sizeof *table);
    for (int i = 0; i <= chosen; i++) ISAS[i].overlay(table);
    table->isa = ISAS[chosen].name;
    return PE_OK;
}
