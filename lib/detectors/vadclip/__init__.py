"""VadCLIP, a weakly supervised detector with a classification and an alignment branch.

Wu, Zhou, Pang, Zhou, Yan, Wang and Zhang, "VadCLIP: Adapting vision-language models for weakly
supervised video anomaly detection", AAAI 2024 (official code: nwpu-zxr/VadCLIP). Equations are the
paper's. Where the text and the released code differ, the setting ``variant`` chooses; the default
is the code, which made the published numbers.
"""
