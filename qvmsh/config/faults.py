"""What is not part of `.vmrc`: the problem to report, and where to continue reading.

    Faults(scanner).command(begin, "if")     # if is a command; ... write NAME=${NAME:-value} ...

Each method is called with the scanner at the fault, adds a problem, and leaves the scanner where
reading continues; `Abandoned` skips the rest of the line.
"""

from __future__ import annotations

from qvmsh.config.syntax import (
    END,
    MAX_DEPTH,
    MAX_PROBLEMS,
    QUOTING,
    Abandoned,
    Expansion,
    Full,
    Problem,
    Unclosed,
)
from qvmsh.config.words import CONTROLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Protocol

    from qvmsh.config.syntax import Assignment, Document

    class Scanner(Protocol):
        """The parts of `grammar.Scanner` that are used here."""

        text: str
        size: int
        at: int
        document: Document

        def place(self, offset: int) -> tuple[int, int]: ...
        def blanks(self) -> None: ...
        def skip(self, at: int) -> int: ...
        def to_line_end(self) -> None: ...
        def word(self, found: Expansion, in_double: bool) -> None: ...


MAX_RECOVERIES = 10

_FOLLOW_UPS = frozenset(("then", "else", "elif", "fi", "do", "done", "esac", "}", "{", ")"))
_INCLUDE = "write VM_INCLUDE=FILE instead"
_PLAIN = "write NAME=value instead"
_UNLESS_SET = "NAME=${NAME:-value} sets a value unless one is set"
_ITSELF = "write each value by itself"
_INSTEAD = {
    "source": _INCLUDE,
    ".": _INCLUDE,
    "readonly": _PLAIN,
    "declare": _PLAIN,
    "typeset": _PLAIN,
    "local": _PLAIN,
    "let": _PLAIN,
    "unset": "write NAME= instead: an empty value means the default",
    "if": _UNLESS_SET,
    "case": _UNLESS_SET,
    "[": _UNLESS_SET,
    "[[": _UNLESS_SET,
    "test": _UNLESS_SET,
    "for": _ITSELF,
    "while": _ITSELF,
    "until": _ITSELF,
}


class Faults:
    """The faults of one text, found by its scanner."""

    def __init__(self, scanner: Scanner) -> None:
        self.scanner = scanner
        self.muted = 0  # inside something that has been reported already
        self.recoveries = 0
        self.follow_ups = 0
        self.in_block = False
        self.has_cr = False

    def note(self, offset: int, message: str, hint: str | None = None, name: str = "") -> None:
        """Add a problem, up to MAX_PROBLEMS."""
        if self.muted:
            return
        document = self.scanner.document
        line, column = self.scanner.place(offset)
        if len(document.problems) >= MAX_PROBLEMS:
            text = "more problems are not listed"
            document.problems.append(Problem(document.file, line, column, text))
            raise Full
        document.problems.append(Problem(document.file, line, column, message, hint, name))

    def recover(self, begin: int, unclosed: Unclosed) -> None:
        """Report what is not closed, and continue after the line on which it was opened."""
        self.muted = 0
        hint = unclosed.hint
        first, last = self.scanner.place(begin)[0], self.scanner.place(unclosed.offset)[0]
        problems = self.scanner.document.problems
        while problems and problems[-1].line > last:
            problems.pop()  # these lines will be read again
        if first != last:
            hint = f"see also line {first}, where this statement begins; {hint}"
        self.note(unclosed.offset, unclosed.what, hint)
        self.recoveries += 1
        if self.recoveries > MAX_RECOVERIES:
            self.scanner.at = self.scanner.size
            return
        self.scanner.at = unclosed.offset
        self.scanner.to_line_end()

    def carriage_return(self) -> None:
        """A CR outside of quotes: bash would add it to the value."""
        if self.scanner.text[self.scanner.at + 1] == "\n":
            if not self.has_cr:
                hint = "remove the CR of every line: sed -i 's/\\r$//' FILE"
                self.note(self.scanner.at, "the line ends with CR LF, as on Windows", hint)
            self.has_cr = True
        else:
            self.note(self.scanner.at, "a carriage return", "remove it")
        self.scanner.at += 1

    # statements

    def operator(self, char: str) -> NoReturn:
        """`|`, `&`, `<`, `>`, `(` or `)` outside of quotes."""
        hint = f"quote the value if the {char} belongs to it: NAME='...{char}...'"
        self.note(self.scanner.at, f"an unquoted {char}, which is an operator in a shell", hint)
        self._abandon_command()

    def second_semicolon(self) -> NoReturn:
        self.note(self.scanner.at, "a second ;", "write one assignment per line")
        raise Abandoned

    def addition(self, name: str) -> int:
        """`NAME+=`: continue as for `NAME=`; returns the offset of the `=`."""
        self.note(
            self.scanner.at, f"{name}+= is not part of .vmrc", f'write {name}="${name}..." instead', name
        )
        return self.scanner.skip(self.scanner.skip(self.scanner.at) + 1)

    def element(self, begin: int, name: str) -> NoReturn:
        """`NAME[0]=`."""
        hint = "write one variable for each value, or one quoted value with several lines"
        self.note(begin, f"{name}[...] is an array, which .vmrc does not support", hint, name)
        self._abandon_command()

    def array(self, begin: int, name: str) -> None:
        """`NAME=(...)`."""
        hint = f"write {name}='...' instead, with one line per element"
        self.note(begin, f"{name}=(...) is an array, which .vmrc does not support", hint, name)
        self._skip_balanced(self.scanner.skip(self.scanner.at), "(", ")", "an unclosed array")

    def shell_name(self, begin: int, name: str) -> None:
        """A name that a shell sets itself."""
        self.note(begin, f"{name} is reserved by the shell", "choose another name", name)

    def export_word(self, start: int) -> NoReturn:
        """A word after `export` that is not an assignment."""
        char = self.scanner.text[start]
        if char in "'\"":
            message, hint = "a quote before the name", f"write export NAME={char}...{char} instead"
        elif char == "=":
            message, hint = "a blank before the =", "write export NAME=value instead"
        else:
            message, hint = "export takes only assignments", "write export NAME=value instead"
        self.note(start, message, hint)
        self._abandon_command()

    def bare_export(self, begin: int) -> None:
        self.note(begin, "export needs an assignment", "write export NAME=value instead")

    def second_word(self, begin: int, start: int) -> NoReturn:
        """Something after an assignment that is not one: nearly always a value without quotes."""
        found = self.scanner.document.assignments[-1] if self.scanner.document.assignments else None
        self.scanner.at = start
        word = self._shown_word()
        message = f"a blank ends the value, and {word} would be run as a command"
        hint = "write NAME='...' with quotes around the whole value"
        if word == "export":
            hint = "write export on a line of its own"
        elif found is None or found.start < begin:
            message = f"{word} is not an assignment"
        else:
            end = min(self._index("\n", start), self._index(" #", start))
            raw = self.scanner.text[found.start : end].strip()
            is_plain = len(raw) <= 60 and not any(c in QUOTING or c in ";|&<>()\n\r" for c in raw)
            if found.start == found.end:
                better = "'...'" if not is_plain else f"'{raw}'" if any(c in raw for c in " \t~*?[#") else raw
                hint = f"write {found.name}={better} instead, without a blank after the ="
            elif is_plain:
                hint = f"write {found.name}='{raw}' instead"
        self.note(start, message, hint)
        self._abandon_command()

    def command(self, begin: int, name: str) -> NoReturn:
        """A statement that is not an assignment."""
        self.scanner.at = begin
        word = self._shown_word()
        if self.in_block and word in _FOLLOW_UPS:
            self.follow_ups += 1
            if self.follow_ups > MAX_PROBLEMS:
                raise Full
        else:
            message, hint = self._about_command(begin, name, word)
            self.note(begin, message, hint)
        self._abandon_command()

    def _about_command(self, begin: int, name: str, word: str) -> tuple[str, str]:
        """What is wrong with a command, and what to write instead."""
        rest = self.scanner.text[begin + len(word) : self._index("\n", begin)].strip()
        head = word.partition("=")[0]
        if word in _INSTEAD:
            self.in_block = self.in_block or word in ("if", "case", "for", "while", "until")
            return f"{word} is a command; .vmrc is read, never run", _INSTEAD[word]
        if name and name == word and rest.startswith("="):
            value = rest[1:].strip()
            shown = value if len(value) <= 40 else "value"
            return "a blank before the =", f"write {name}={shown} instead, without blanks around the ="
        if name and ("()" in word or rest.startswith("()") or word == "function"):
            self.in_block = True
            return "a function, which .vmrc does not support", "put it into a script for qvm"
        if "=" in word and not any(c in QUOTING or c in "()|&<>;" for c in head):
            better = "".join(c if c.isascii() and c.isalnum() else "_" for c in head).lstrip("0123456789")
            hint = f"write {better}=... instead" if better.strip("_") else "begin it with a letter"
            return f"{head} is not a valid variable name", hint
        if word.startswith(("|", "&", "<", ">", "(", ")", ";")):
            return f"{word} does not begin an assignment", "write one NAME=value per line"
        hint = "write NAME=value, or put the command into a script for qvm"
        return f"{word} is a command; .vmrc is read, never run", hint

    def _abandon_command(self) -> NoReturn:
        """Go to the end of a command line, over quotes, continued lines and here-documents."""
        text, start, mark = self.scanner.text, self.scanner.at, ""
        at = start
        while text[at] not in "\n\0":
            char = text[at]
            if char == "\\":
                at += 2 if text[at + 1] != END else 1
            elif char in "'\"":
                at = self._quote_end(at)
                if at < 0:
                    self.scanner.at = start
                    raise Abandoned
            elif char == "<" and text.startswith("<<", at) and not mark:
                self.scanner.at = at + (3 if text.startswith("<<-", at) else 2)
                self.scanner.blanks()
                mark = self._shown_word().strip("'\"\\")
                at = self.scanner.at
            else:
                at += 1
        self.scanner.at = at
        if mark:  # the lines of a here-document are not assignments
            end = text.find(f"\n{mark}\n", at)
            self.scanner.at = at if end < 0 else end + 1 + len(mark)
        raise Abandoned

    def _index(self, what: str, at: int) -> int:
        found = self.scanner.text.find(what, at)
        return self.scanner.size if found < 0 else found

    def _shown_word(self) -> str:
        """The current word, shortened for a message."""
        at = self.scanner.at
        while self.scanner.text[at] not in " \t\n\r;\0" and at - self.scanner.at < 30:
            at += 1
        return self.scanner.text[self.scanner.at : at] or self.scanner.text[at].strip("\0")

    # values

    def backtick(self) -> None:
        """A command in backticks."""
        begin, hint = self.scanner.at, "write the value itself, or '`' for the character"
        self.note(begin, "`...` would run a command", hint)
        at = begin + 1
        while self.scanner.text[at] != "`":
            if self.scanner.text[at] == END:
                raise Unclosed(begin, "an unclosed `", "write the value itself")
            at += 2 if self.scanner.text[at] == "\\" and self.scanner.text[at + 1] != END else 1
        self.scanner.at = at + 1

    def last_backslash(self) -> None:
        hint = "remove it, or write '\\' for the character"
        self.note(self.scanner.at, "a \\ at the end", hint)
        self.scanner.at += 1

    def process(self, char: str) -> None:
        """`<(...)` or `>(...)` in a `${...}`."""
        self.note(self.scanner.at, f"{char}(...) would run a command", "write the value itself")
        self._skip_balanced(self.scanner.skip(self.scanner.at + 1), "(", ")", f"an unclosed {char}(")

    def stack_folder(self, begin: int, user: str) -> None:
        """`~+`, `~-`, `~1`."""
        self.note(begin, f"~{user} is a folder of a running shell", "write the folder itself")

    def dollar(self, begin: int, at: int) -> None:
        """A `$` at `begin` with something at `at` that a `.vmrc` does not support."""
        char = self.scanner.text[at]
        if char == "(":
            is_number = self.scanner.text[self.scanner.skip(at + 1)] == "("
            what = "$((...)) is arithmetic" if is_number else "$(...) would run a command"
            hint = "write the number itself" if is_number else "write the value itself"
            self.note(begin, f"{what}, which .vmrc does not support", hint)
            self._skip_balanced(at, "(", ")", "an unclosed $(")
        elif char == "[":
            hint = "write the number itself"
            self.note(begin, "$[...] is arithmetic, which .vmrc does not support", hint)
            self._skip_balanced(at, "[", "]", "an unclosed $[")
        elif char in "'\"":
            hint = f"write {char}...{char} with the characters themselves; a value may have several lines"
            self.note(begin, f"${char}...{char} is not part of .vmrc", hint)
            end = self._quote_end(at)
            if end < 0:
                raise Unclosed(at, f"an unclosed {char}", f"write the second {char}")
            self.scanner.at = end
        else:
            hint = "write the value itself, or '$' for the character"
            self.note(begin, f"${char} has no value here: no script is running", hint)
            self.scanner.at = at + 1

    def shell_value(self, offset: int, name: str) -> None:
        """The value of a name that only a running shell has."""
        self.note(offset, f"${name} is reserved by the shell", "write the value itself", name)

    def nesting(self, begin: int) -> NoReturn:
        hint = "set another variable first and use it here"
        self.note(begin, f"${{...}} nested more than {MAX_DEPTH} times", hint)
        raise Abandoned

    def other_braces(self, begin: int, name: str, in_double: bool) -> None:
        """A form of `${...}` that is not part of `.vmrc`: report it and skip it."""
        piece = self.scanner.text[begin : begin + 30].partition("\n")[0]
        shown = piece.partition("}")[0] + "}" if "}" in piece else piece
        hint = "supported are $NAME, ${NAME}, ${NAME:-word} and the same with - := = :+ + :? ?"
        self.note(begin, f"{shown} is not part of .vmrc", hint, name)
        self.muted += 1
        scratch = Expansion(name, 0, 0)
        while self.scanner.text[self.scanner.at] not in "}\0":
            before = self.scanner.at
            self.scanner.word(scratch, in_double)
            if self.scanner.at == before:
                self.scanner.at += 1
        self.muted -= 1

    def inner_double(self) -> None:
        """A `"` in `"${NAME:-...}"`: whether bash treats the text between as quoted depends on it."""
        hint = "leave out the inner quotes, or set another variable first and use it here"
        self.note(self.scanner.at, 'a " in a quoted ${...}, where shells differ', hint)
        self.scanner.at += 1

    def braces(self, begin: int, found: Assignment) -> None:
        """`export NAME={a,b}`: bash expands the braces before it assigns; the last word counts."""
        hint = f"write export {found.name}='...' with quotes around the whole value"
        message = "an unquoted {...} after export, which bash may expand to several words"
        self.note(begin, message, hint, found.name)
        raw = self.scanner.text[found.start : found.end]
        if not set(raw) & set("\"'$\\`~"):  # shown as in bash, although it is refused
            found.parts[:] = [last_word(raw)]

    def control(self, found: Assignment) -> None:
        """A value with a control character, perhaps in quotes."""
        raw = self.scanner.text[found.start : found.end]
        at = next(at for at, char in enumerate(raw) if char in CONTROLS)
        message = f"the value of {found.name} contains the control character {raw[at]!r}"
        self.note(found.start + at, message, "remove it", found.name)

    def inner_quote(self) -> str:
        """A `'` in `"${NAME:-...}"`: bash looks for a second one and keeps everything between."""
        text, begin = self.scanner.text, self.scanner.at
        hint = "set another variable first and use it here"
        self.note(begin, "a ' in a quoted ${...}, where shells differ", hint)
        end = -1 if text[begin - 1] == "\\" else self._quote_end(begin)
        self.scanner.at = begin + 1 if end < 0 else end
        return text[begin : self.scanner.at]

    def _quote_end(self, at: int) -> int:
        """The offset after the quoted string that begins at `at`; -1 if it is not closed."""
        text, quote = self.scanner.text, self.scanner.text[at]
        if quote == "'":
            return text.find("'", at + 1) + 1 or -1
        at += 1
        while text[at] != '"':
            if text[at] == END:
                return -1
            at += 2 if text[at] == "\\" and text[at + 1] != END else 1
        return at + 1

    def _skip_balanced(self, at: int, opening: str, closing: str, what: str) -> None:
        """Skip to after the bracket that closes the one at `at`."""
        text, begin, depth = self.scanner.text, at, 0
        while True:
            char = text[at]
            if char == opening:
                depth += 1
            elif char == closing:
                depth -= 1
                if depth == 0:
                    self.scanner.at = at + 1
                    return
            elif char == "\\" and text[at + 1] != END:
                at += 1
            elif char in "'\"":
                at = self._quote_end(at) - 1
            if at < 0 or char == END:
                raise Unclosed(begin, what, f"write the closing {closing}, or quote the value")
            at += 1


def last_word(text: str) -> str:
    """The last of the words that bash makes of plain text with braces.

    Examples:
        >>> last_word("a{1..3}b{x,y{1,2}}"), last_word("{a}{b")
        ('a3by2', '{a}{b')
    """
    begin = text.find("{")
    while begin >= 0:
        depth, commas, end = 0, [begin], begin
        while end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            if not depth:
                break
            if text[end] == "," and depth == 1:
                commas.append(end)
            end += 1
        inner = text[commas[-1] + 1 : end]
        found = last_word(inner) if len(commas) > 1 else _last_of_sequence(inner)
        if end < len(text) and found is not None:
            return text[:begin] + found + last_word(text[end + 1 :])
        begin = text.find("{", begin + 1)
    return text


def _last_of_sequence(text: str) -> str | None:
    """`1..3` -> 3, `1..8..3` -> 7, `a..c` -> c; None if it is not a sequence."""
    words = text.split("..")
    if len(words) == 2 and all(len(word) == 1 and word.isalpha() for word in words):
        return words[1]
    try:
        first, last, *rest = map(int, words)
        step = abs(rest[0]) if rest and rest[0] else 1
    except ValueError:
        return None
    return str(last - (last - first) % step if last >= first else last + (first - last) % step)
