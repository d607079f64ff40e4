"""Everything through which the outside world enters a Python function, recorded as it enters.

The user changes nothing: `install_shims()` puts thin replacements in the standard library (and in
httpx and urllib3 where they are loaded) before user code is imported. Outside a run a replacement
only calls the original. Within a run (`current_log` is set) it records the value with its place:
span path, task path and call index. Those three, never a URL alone, find it again in a replay.

**Which calls count.** A call counts if the frame that made it belongs to the user's code or to a
library that works for it. It does not count if that frame belongs to the runtime or to a library
that works for the runtime (`callers.RUNTIME_PACKAGES`: trio, psycopg, httpcore, logging,
threading, ...): their clock reads decide nothing that a function returns. Modules that are only a
layer above another boundary (`random` over `os.urandom`) are looked through: their caller decides.

**Not recorded**, and so not the same in a replay: numpy's generators, generators in other C or
Rust extensions (`uuid_utils`), `os.environb`, files, sockets that user code opens itself, process
ids, `hash()` of strings (PYTHONHASHSEED is set per deployment), set order that depends on ids,
reads in threads that user code did not start through `threading`, `concurrent.futures` or trio.

Import `log` for `current_log` and `BoundaryLog`, `install` for `install_shims`.
"""
