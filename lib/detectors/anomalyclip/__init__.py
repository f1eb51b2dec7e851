"""AnomalyCLIP, a weakly supervised detector that also names the anomaly of each frame.

Zanella, Liberatori, Menapace, Poiesi, Wang and Ricci, "Delving into CLIP latent space for video
anomaly recognition", CVIU 2024 (official code: lucazanella/AnomalyCLIP). Not the AnomalyCLIP of
Zhou, Pang, Tian, He and Chen (ICLR 2024), a method for defects in industrial images.

Equations and sections are the paper's. Where the text and the released code differ, the setting
``variant`` chooses; the default is the code, which made the published numbers.
"""
