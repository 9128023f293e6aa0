"""Names of machines inside texts, found without a pattern of their own: to compile one costs more than all the rest."""


def replace_name(text: str, name: str, by: str) -> str:
    """`text` with `by` for every `name` that stands there as a whole: not as a part of a longer name."""
    at = text.find(name)
    if at < 0:
        return text
    kept, begin = [], 0
    while at >= 0:
        end = at + len(name)
        if not _goes_on(text[at - 1 : at], "_.-") and not _goes_on(text[end : end + 1], "_-"):
            kept += [text[begin:at], by]
            begin = end
            at = text.find(name, end)
        else:
            at = text.find(name, at + 1)
    return "".join([*kept, text[begin:]])


def _goes_on(beside: str, joining: str) -> bool:
    return beside.isalnum() or (beside != "" and beside in joining)
