import warnings

warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm: no page needs its widget
