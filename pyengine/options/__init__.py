"""What a caller may ask of a search, and what the search is finally told."""

from pyengine.options.given import GenerationOptions
from pyengine.options.keywords import GenerationKeywords
from pyengine.options.settled import SearchOptions

__all__ = ["GenerationKeywords", "GenerationOptions", "SearchOptions"]
