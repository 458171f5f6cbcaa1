"""Raw text in, clean documents out.

`stage.corpus_stage` takes a `recipe.CorpusRecipe` and writes shards of documents, held-out documents and a report; `read_back.open_corpus`
opens them. No torch here.
"""
