"""Takes the pages of the site from where they lie in the repository, so that a link means the same in both."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return those of the theme and what `extra.files` names, by patterns from the root of the repository."""
    files = Files([file for file in files if file.src_dir != config.docs_dir])
    for pattern in config.extra["files"]:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files
