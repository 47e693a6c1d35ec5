"""What file servers and systems leave in folders, which nobody has put there on purpose."""

LEFT_BEHIND = frozenset(
    [
        ".ds_store", "@eadir", "@recently-snapshot", "@recycle", "@sharebin", "@tmp", "#recycle",
        "#snapshot", "$recycle.bin", "recycler", "system volume information", "found.000",
        "lost+found", "lost.dir", "__macosx", "__pycache__", "network trash folder",
        "temporary items", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "zbthumbnail.info",
        "desktop.ini", "picasa.ini", "icon\r", "ipod photo cache",
    ]
)  # fmt: skip
"""In lower case, recognised in any."""

LEFT_BEFORE, LEFT_AFTER = ("._", ".trash", "~$", "thumbs.db:"), ("~", ":zone.identifier")
"""How other names begin and end that they leave."""


def is_left_behind(name: str) -> bool:
    """Say whether a name is that of something that a file server or a system left in a folder."""
    lower = name.lower()
    return lower in LEFT_BEHIND or lower.startswith(LEFT_BEFORE) or lower.endswith(LEFT_AFTER)
