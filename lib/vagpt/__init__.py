"""Question answering about anomalies after VA-GPT (ICCV 2025).

- ``timed_captions``, ``instructions``: captions of video segments, and instruction data from them.
- ``questions``, ``answerers``: four-option questions about type and time, and models that answer.
- ``temporal_classifier``, ``effective_tokens``: temporal and spatial effective tokens.
- ``language_model``: the model that reads visual tokens.
"""
