/* What a function of the core can answer. Nothing in the core prints, exits or aborts. */
#ifndef PE_BASE_STATUS_H
#define PE_BASE_STATUS_H

typedef enum pe_status {
    PE_OK = 0,
    PE_NO_MEMORY,     /* an allocation failed */
    PE_BAD_ARGUMENT,  /* a plan breaks its contract, see pe_session.message; an instruction set that is not there */
    PE_CACHE_FULL,    /* a plan needs more pages than there may be, see pe_session.pages_needed */
    PE_NOT_FINITE,    /* logits of a step have no finite normalizer, see pe_session.message */
} pe_status;

#define PE_TRY(expr)                                  \
    do {                                              \
        const pe_status pe_try_status = (expr);       \
        if (pe_try_status != PE_OK) return pe_try_status; \
    } while (0)

#endif
