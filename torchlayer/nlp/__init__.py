"""Words: vocabularies, texts as ids, pairs to train word vectors on, and drawing the next word."""

from .generating import TextGenerator as TextGenerator
from .sampling import sample as sample
from .sampling import sample_logits as sample_logits
from .sampling import sample_top as sample_top
from .skipgram import SkipGramBatches as SkipGramBatches
from .skipgram import generate_skip_gram_batch as generate_skip_gram_batch
from .skipgram import skip_gram_batches as skip_gram_batches
from .tokens import basic_tokenizer as basic_tokenizer
from .tokens import create_vocabulary as create_vocabulary
from .tokens import data_to_token_ids as data_to_token_ids
from .tokens import initialize_vocabulary as initialize_vocabulary
from .tokens import sentence_to_token_ids as sentence_to_token_ids
from .vocabulary import SimpleVocabulary as SimpleVocabulary
from .vocabulary import Vocabulary as Vocabulary
from .vocabulary import create_vocab as create_vocab
from .vocabulary import process_sentence as process_sentence
from .words import build_reverse_dictionary as build_reverse_dictionary
from .words import build_vocab as build_vocab
from .words import build_words_dataset as build_words_dataset
from .words import read_analogies_file as read_analogies_file
from .words import read_words as read_words
from .words import save_vocab as save_vocab
from .words import simple_read_words as simple_read_words
from .words import word_ids_to_words as word_ids_to_words
from .words import words_to_word_ids as words_to_word_ids
