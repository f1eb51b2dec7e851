"""Question answering about anomalies, after VA-GPT (ICCV 2025): data, questions, answerers."""
