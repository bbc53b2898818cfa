"""Data sets, and everything that is written to a disk or read from one."""

from .archive import extract as extract
from .datasets import load_digits_dataset as load_digits_dataset
from .datasets import load_mnist_dataset as load_mnist_dataset
from .docstrings import load_docstrings_dataset as load_docstrings_dataset
from .docstrings import load_docstrings_splits as load_docstrings_splits
from .download import maybe_download_and_extract as maybe_download_and_extract
from .errors import FileFormatError as FileFormatError
from .folders import exists_or_mkdir as exists_or_mkdir
from .folders import load_file_list as load_file_list
from .folders import load_folder_list as load_folder_list
from .npy import load_npy_to_any as load_npy_to_any
from .npy import save_any_to_npy as save_any_to_npy
from .npz import LoadedParams as LoadedParams
from .npz import assign_params as assign_params
from .npz import load_and_assign_npz as load_and_assign_npz
from .npz import load_npz as load_npz
from .npz import load_npz_dict as load_npz_dict
from .npz import save_npz as save_npz
from .number_words import load_number_words_dataset as load_number_words_dataset
from .number_words import number_in_english as number_in_english
from .number_words import number_in_french as number_in_french
from .number_words import split_number_words as split_number_words
from .parallel_text import load_parallel_text as load_parallel_text
from .parallel_text import save_parallel_text as save_parallel_text
from .parallel_text import split_pairs as split_pairs
from .pictures import npz_to_W_pdf as npz_to_W_pdf
from .text_datasets import load_imdb_dataset as load_imdb_dataset
from .text_datasets import load_matt_mahoney_text8_dataset as load_matt_mahoney_text8_dataset
from .text_datasets import load_nietzsche_dataset as load_nietzsche_dataset
from .text_datasets import load_ptb_dataset as load_ptb_dataset
from .translation_datasets import load_multi30k_dataset as load_multi30k_dataset
from .translation_datasets import load_wmt_en_fr_dataset as load_wmt_en_fr_dataset
from .word2vec import load_word2vec_format as load_word2vec_format
from .word2vec import save_word2vec_format as save_word2vec_format

load_imbd_dataset = load_imdb_dataset  # how the original's documentation spells it
