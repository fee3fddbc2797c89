"""The source of every YAML file that Hydra composes: conf/, and folders given by --config-dir.

Hydra has a plugin for sources; this one reads by `experiments.config.yaml_files`, so that a slip is
one line with its file and line, and holds a folder of one's own to what it is for. It may say
everything that a run computes, and nothing under `hydra`: Hydra calls, imports and writes what it
finds there (docs/threats.md, "A YAML file that would have Hydra run code").
"""

import re
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from bszo.errors import ConfigError
from experiments import CONF
from experiments.config.yaml_files import exists, read_mapping, read_text

SCHEME = "yaml"
_OF_HYDRA = re.compile(r"(^|[/@.\s])hydra([/@.]|$)")


class YamlSource(ConfigSource):
    """A folder of configuration groups; conf/ alone may configure Hydra."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """A file of the folder as Hydra wants it; ConfigError for a slip in it, or what it may not
        say."""
        file = self._file(config_path)
        content = read_mapping(file)
        try:
            header = self._get_header_dict(read_text(file)[:512])
        except ValueError as error:
            raise ConfigError(f"{file}: {error}") from error
        if not file.resolve().is_relative_to(CONF):
            _check_own(file, config_path, header.get("package") or "", content)
        return ConfigResult(self.provider, self.full_path(), content, header)

    def available(self) -> bool:
        return self.is_group("")

    def is_group(self, config_path: str) -> bool:
        return exists(Path(self.path, config_path).is_dir)

    def is_config(self, config_path: str) -> bool:
        return exists(self._file(config_path).is_file)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found: list[str] = []
        for file in Path(self.path, config_path).iterdir():
            path = str(Path(config_path, file.name))
            self._list_add_result(found, path, file.name, results_filter)
        return sorted(set(found))

    def _file(self, config_path: str) -> Path:
        return Path(self.path, self._normalize_file_name(config_path))


class YamlSearchPath(SearchPathPlugin):
    """Has conf/ read by `YamlSource`, wherever Hydra is started with it."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            if element.provider == "main" and element.path == str(CONF):
                element.path = f"{SCHEME}://{CONF}"


def _check_own(file: Path, config_path: str, package: str, content: DictConfig) -> None:
    """Refuse what would reach the node `hydra`: by the file's place, its package, its keys, or its
    defaults."""
    plain: Any = OmegaConf.to_container(content, resolve=False)
    defaults = plain.get("defaults")
    items = defaults if isinstance(defaults, list) else []
    named = [str(name) for item in items for name in (item if isinstance(item, dict) else [item])]
    # a file that the value of another group names could be one of Hydra's
    reaching = [name for name in named if _OF_HYDRA.search(name) or "${" in name]
    reaching += [name for name in (config_path, package) if _OF_HYDRA.search(name)]
    reaching += [name for name in ("hydra",) if name in plain]
    if reaching:
        raise ConfigError(
            f"{file}: {reaching[0]}: what is Hydra's own is set by the command line and conf/; a"
            " file of one's own says what a run computes"
        )
