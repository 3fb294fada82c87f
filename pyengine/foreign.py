"""Options that other libraries have, and what takes their place here."""

from __future__ import annotations

__all__ = ["FOREIGN"]

_ABSENT = "the engine has nothing like it"
_CHECKPOINT = "the checkpoint says it, and what it says was kept when it was converted"
_CPU = "the engine runs on CPUs and has no such choice: leave it out"
_DIRECTORY = "a model directory is local and holds all that a model needs: give load its path"
_ROWS = "give a call any number of texts; max_batch_tokens bounds the rows of a step"
_TYPES = 'load takes compute="int8" or "float32"; how weights are stored is chosen when a checkpoint is converted'

# Of other engines, and what people write from memory.
_ADVICE = {
    # Batches, threads and time.
    "batch_size max_batch_size per_device_eval_batch_size batch_type bucket_size n_batch n_ubatch n_seq_max": _ROWS,
    "inter_threads num_translators num_workers workers num_replicas num_streams": (
        "load takes replicas, the streams that a call of many sentences runs in"
    ),
    "intra_threads num_threads n_threads n_threads_batch nthreads num_cpus cpu_threads omp_num_threads thread_count": (
        "load takes threads, of all streams together"
    ),
    "asynchronous max_queued_batches": "calls of several Python threads run beside each other, and wait by themselves",
    "callback streamer": (
        "translate_iter gives each result as soon as it is there, and a language model's `stream` text as it is written"
    ),
    "max_time time_limit": "timeout takes seconds, after which the call ends in a DeadlineError",
    # Types and devices.
    "compute_type quantization quantize dtype torch_dtype precision load_in_8bit load_in_4bit": _TYPES,
    "quantization_config bnb_4bit_compute_dtype int8 fp16 half": _TYPES,
    "device device_index device_map gpu cuda use_gpu tensor_parallel tp_size n_gpu_layers main_gpu": _CPU,
    "flash_attention flash_attn attn_implementation torch_compile compile_config low_memory": _CPU,
    "n_ctx context_length": "a prompt may be as long as the model's positions; cache_bytes bounds what lies in memory",
    "rope_freq_base rope_freq_scale rope_scaling_type": _CHECKPOINT,
    "type_k type_v": 'load takes kv="int8" or "float32", the type of cached keys and values',
    "mmap use_mmap use_mlock low_cpu_mem_usage": 'load takes load="copy" or "mmap"',
    "use_cache past_key_values cache_implementation cache_config kv_cache_dtype": (
        'there always is a cache; load takes kv="int8" or "float32", its type'
    ),
    "revision trust_remote_code cache_dir token use_auth_token local_files_only force_download": _DIRECTORY,
    "model model_path model_name model_id model_dir pretrained_model_name_or_path files tokenizer": _DIRECTORY,
    "use_vmap vmap": "load takes shortlist, the target ids that go with a source",
    # Sampling, and searches that are others.
    "top_h epsilon_cutoff eta_cutoff tfs_z mirostat_mode mirostat_tau mirostat_eta top_n_sigma": _ABSENT,
    "random_seed manual_seed": "seed makes samples repeat",
    "sampling_max_repeats": "no_repeat_ngram_size and repetition_penalty keep tokens from repeating",
    "num_beam_groups diversity_penalty penalty_alpha guidance_scale dola_layers custom_generate": _ABSENT,
    "encoder_no_repeat_ngram_size encoder_repetition_penalty exponential_decay_length_penalty": _ABSENT,
    "coverage_penalty constraints force_words_ids sequence_bias stopping_criteria": _ABSENT,
    "prefix_allowed_tokens_fn assistant_model prompt_lookup_num_tokens": _ABSENT,
    "grammar response_format suffix infill lora_path logits_all penalize_nl repeat_last_n": _ABSENT,
    "watermarking_config token_healing remove_invalid_values replace_unknowns": _ABSENT,
    "return_alternatives min_alternative_expansion_prob prefix_bias_beta": _ABSENT,
    "output_attentions output_hidden_states return_attention": _ABSENT,
    "logits_processor logit_processor logits_processors": "processor takes a function of ids and logits",
    "stop_strings stop_sequences stopping_strings": "stop takes the strings that end a text",
    "patience stop_early": "early_stopping says when a beam search is done",
    # Options that are here under another name, in another form.
    "beams beam beam_width n_beams": "num_beams is the number of beams",
    "return_full_text": "echo=True puts the prompt before its text",
    "output_top_logprobs top_logprobs n_probs": "logprobs is how many best tokens come with each that is written",
    "chat_format chat_handler chat_template": "a model's own chat template is in its directory",
    "nbest n_best num_outputs best_of n": "num_return_sequences is the number of hypotheses returned",
    "lenpen alpha length_normalization normalize_scores": (
        "length_penalty is the exponent of the length by which a score is divided"
    ),
    "max_len max_gen_len max_output_length max_target_length max_generate_length": (
        "max_new_tokens bounds the tokens of a hypothesis"
    ),
    "min_tokens min_len min_gen_len min_output_length min_target_length": (
        "min_new_tokens is the least number of tokens of a hypothesis"
    ),
    "max_input_length max_source_length max_seq_length max_seq_len truncation": (
        "truncate=True cuts an input that is longer than the model's positions"
    ),
    "suppress_sequences bad_words": "bad_words_ids takes sequences of ids that never occur",
    "disable_unk": "suppress_tokens takes ids that never occur, such as the unknown token's",
    "decoder_input_ids decoder_inputs forced_decoder_ids prefix": (
        "target_prefix is what every hypothesis begins with, without the start token"
    ),
    "src_lang tgt_lang source_lang target_lang source_language target_language": (
        "a multilingual model takes its language as a token at the start of the text or of target_prefix"
    ),
    "generation_config": "give options by name, or options=GenerationOptions(...)",
    "end_token eos_token_id pad_token_id bos_token_id decoder_start_token_id": _CHECKPOINT,
    # Inputs and results.
    "input_ids inputs text texts sentences source_text": (
        "texts come first, without a name: one text or list of ids, or a list of them"
    ),
    "attention_mask encoder_attention_mask padding return_tensors": (
        "sentences of any lengths go together without padding: give them as a list"
    ),
    "return_scores output_scores return_log_probs_vocab": "each hypothesis has its score; `score` gives one a token",
    "output_logits return_logits_vocab": "`logits` gives those of a given target",
    "return_dict_in_generate return_end_token skip_special_tokens clean_up_tokenization_spaces": (
        "a result has .text, .tokens, .ids and .score, without special tokens in its text"
    ),
}

FOREIGN = {name: advice for names, advice in _ADVICE.items() for name in names.split()}
"""Name -> what to do here."""
