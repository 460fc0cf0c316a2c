"""The files that the engine writes: what each is called on the web, and how the engine is told to write it. Pure."""

from typing import NamedTuple

Setting = int | str


class Format(NamedTuple):
    """`name` is the engine's word for it, `settings` what it must be told beside that."""

    suffix: str
    media_type: str
    name: str
    settings: dict[str, Setting]

    def read_in_order(self) -> "Format":
        """The same, of rows that lie in the order that is asked for (slices.py): nothing is sorted, nothing spilled."""
        return self._replace(settings=self.settings | {"optimize_read_in_order": 1})


CSV = Format(
    "csv",
    "text/csv; charset=utf-8",
    "RawBLOB",  # lines come finished (request_file.py): the engine's own CSV quotes every text
    {
        "query_plan_execute_functions_after_sorting": 0,  # what is sorted is the line, not what it is made of
        "output_format_json_escape_forward_slashes": 0,
        "max_threads": 1,  # the other core sends what this one makes; what is read in order cannot use a second
        "max_bytes_before_external_sort": 8 * 1024 * 1024,  # of all workspaces: sorted on the disk (slices.py)
        "max_bytes_ratio_before_external_sort": 0,
        "prefer_external_sort_block_bytes": 256 * 1024,  # of each of a slice's 60 sorted runs while they are merged
        "temporary_files_buffer_size": 64 * 1024,  # likewise
    },
)
_SORTED_OUT_OF_MEMORY: dict[str, Setting] = {
    # One statement gives the whole file. Reading in order would open every day of the range at once; a sort of its
    # own spills to the disk instead of growing. A second thread would hold as much again.
    "optimize_read_in_order": 0,
    "max_threads": 1,
    "max_bytes_before_external_sort": 16 * 1024 * 1024,
    "max_bytes_ratio_before_external_sort": 0,
    "prefer_external_sort_block_bytes": 512 * 1024,  # of each sorted run while they are merged; unasked it is 16 MB
    "temporary_files_buffer_size": 64 * 1024,  # likewise
}
PARQUET = Format(
    "parquet",
    "application/vnd.apache.parquet",
    "Parquet",
    {
        "output_format_parquet_compression_method": "zstd",
        "output_format_parquet_row_group_size": 50_000,  # written, and read, at once: some 15 MB
        "output_format_parquet_write_bloom_filter": 0,  # a quarter of the time and a sixth of the file, for few readers
        **_SORTED_OUT_OF_MEMORY,
    },
)
ARROW = Format("arrow", "application/vnd.apache.arrow.file", "Arrow", _SORTED_OUT_OF_MEMORY)

FORMATS = {one.suffix: one for one in (CSV, PARQUET, ARROW)}
