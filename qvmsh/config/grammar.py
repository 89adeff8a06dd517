"""The grammar of `.vmrc`: the assignment subset of POSIX shell, read as data.

    parse("VM_MACHINE_MEM=$(free -m)\n", ".vmrc").problems
    # [.vmrc:1:16: $(...) would run a command, which .vmrc does not support; write the value itself]

What is accepted has the same meaning as in bash; nothing is ever executed. Everything else is a
`Problem` with its place and what to write instead, and all of them are found in one pass. The
scanner works by hand in linear time: importing `re` costs more than reading a file. CR LF line
ends, a byte order mark and control characters in values are problems, since bash would put them into
the values or lose them; bytes that are not UTF-8 (read with `surrogateescape`) are kept.

Source: POSIX.1-2017, Shell Command Language, 2.2, 2.6.1, 2.6.2, 2.9.1; bash 5.2 where POSIX
is open (`export` expands all its words first; `~` after `:` in `${NAME:-word}`).
"""

from __future__ import annotations

from qvmsh.config.syntax import (
    END,
    IN_VALUE,
    MAX_DEPTH,
    NAME_CHARS,
    NAME_START,
    QUOTING,
    READABLE_OWN,
    SHELL_OWN,
    Abandoned,
    Assignment,
    Cursor,
    Document,
    Expansion,
    Full,
    Problem,
    Tilde,
    Unclosed,
    simple_line,
)
from qvmsh.config.words import CONTROLS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qvmsh.config.faults import Faults
    from qvmsh.config.syntax import Part


_IN_WORD = frozenset(END + "\\'\"$`~:}<>")
_IN_DOUBLE = frozenset(END + '\\"$`')
_IN_DOUBLE_WORD = frozenset(END + "\\\"$`'}<>")
_ENDS_USER = frozenset(END + " \t\n\r;|&<>()/:")
_ENDS_USER_IN_WORD = frozenset(END + "/:}")


def parse(text: str, file: str) -> Document:
    """Read `text` and return its assignments and all its problems; never raises for its content."""
    document = Document(file)
    if END in text:
        before = text[: text.index(END)]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        hint = "save it as plain text in UTF-8"
        document.problems.append(Problem(file, line, column, "a NUL byte: this is not a text file", hint))
        return document
    Scanner(text, document).run()
    return document


class Scanner(Cursor):
    """One pass over one text, for what is part of `.vmrc`; `faults` knows about the rest."""

    def __init__(self, text: str, document: Document) -> None:
        super().__init__(text)
        self.document = document
        self._statements = self._depth = 0
        self._looked_at = 0  # up to here is no simple line
        self._brace = -1  # the first { without quotes in a value
        self._is_braced = False  # a } follows it
        self._fault: Faults | None = None

    @property
    def fault(self) -> Faults:
        """Reports what is not part of `.vmrc`."""
        if self._fault is None:
            from qvmsh.config.faults import Faults

            self._fault = Faults(self)
        return self._fault

    # statements

    def run(self) -> None:
        """Read the whole text."""
        try:
            if self.text.startswith("\ufeff"):
                hint = "save the file as UTF-8 without it"
                self.fault.note(0, "a byte order mark, which no shell reads", hint)
                self.at = 1
            while self.at < self.size:
                self._line()
        except Full:
            pass

    def _line(self) -> None:
        """One statement, comment or empty line."""
        if self.at >= self._looked_at and self._simple():
            return
        self.blanks()
        char = self.text[self.at]
        if char == "\n":
            self.at += 1
        elif char == "\r":
            self.fault.carriage_return()
        elif char == "#":
            self.to_line_end()
        elif self.at < self.size:
            begin = self.at
            try:
                self._statement()
            except Abandoned:
                self._depth = self.fault.muted = 0
                self.to_line_end()
            except Unclosed as unclosed:
                self._depth = 0
                self.fault.recover(begin, unclosed)

    def _simple(self) -> bool:
        """Take a whole line `NAME=value` without anything to expand, as most are; False for any other."""
        begin, end = self.at, self.text.find("\n", self.at) % (self.size + 1)  # -1 is the text's end
        if not (found := simple_line(self.text[begin:end])):
            self._looked_at = end
            return False
        self._statements += 1
        row = Assignment(found[0], *self.place(begin), self._statements, False)
        row.parts += filter(None, [found[1]])
        row.start, row.end, self.at = begin + len(found[0]) + 1, end, end + 1
        self.document.assignments.append(row)
        return True

    def _statement(self) -> None:
        """`NAME=value ...` or `export NAME[=value] ...`, up to its end."""
        self._statements += 1
        begin = self.at
        name = self._name()
        is_export = name == "export" and self.text[self.skip(self.at)] in " \t\n\r;#\0"
        if not is_export:
            self._assignment(begin, name, False)
        elif self._is_end():
            self.fault.bare_export(begin)
            return
        while not self._is_end():
            start = self.at
            name = self._name()
            if is_export and name and self.text[self.skip(self.at)] in " \t\n\r;\0":
                continue  # `export NAME` changes no value, and qvm exports all of them
            if name and self._is_assignment():
                self._assignment(start, name, is_export)
            elif is_export:
                self.fault.export_word(start)
            else:
                self.fault.second_word(begin, start)

    def _is_end(self) -> bool:
        """Go to the next word of the statement; True if there is none."""
        before = self.at
        self.blanks()
        char = self.text[self.at]
        if char == "\n" or self.at >= self.size:
            return True
        if char == ";":
            self.at += 1
            if self.text[self.at] == ";":
                self.fault.second_semicolon()
            return True
        if char == "#" and self.at > before:
            self.to_line_end()
            return True
        if char == "\r" and self.text[self.at + 1] == "\n":
            self.fault.carriage_return()
            return True
        if char in "|&<>()":
            self.fault.operator(char)
        return False

    def _name(self) -> str:
        """The name at this position, "" if there is none."""
        text, at = self.text, self.at
        if text[at] not in NAME_START:
            return ""
        begin, pieces = at, []
        while True:
            while text[at] in NAME_CHARS:
                at += 1
            pieces.append(text[begin:at])
            if text[at] != "\\" or text[at + 1] != "\n":
                self.at = at
                return "".join(pieces)
            begin = at = self.skip(at)

    def _is_assignment(self) -> bool:
        at = self.skip(self.at)
        char = self.text[at]
        return char == "=" or (char == "+" and self.text[self.skip(at + 1)] == "=") or char == "["

    def _assignment(self, begin: int, name: str, is_export: bool) -> None:
        """The rest of `NAME=value`, where NAME has just been read."""
        at = self.skip(self.at)
        if not name or not self._is_assignment():
            self.fault.command(begin, name)
        if self.text[at] == "[":
            self.fault.element(begin, name)
        if self.text[at] == "+":
            at = self.fault.addition(name)
        line, column = self.place(begin)
        found = Assignment(name, line, column, self._statements, is_export)
        self.at = found.start = at + 1
        if self.text[self.skip(self.at)] == "(":
            self.fault.array(begin, name)
            return
        if name in SHELL_OWN or name.startswith("BASH_"):
            self.fault.shell_name(begin, name)
        self._brace, self._is_braced = -1, False
        self._unquoted(found.parts, IN_VALUE, _ENDS_USER, colon_tilde=True)
        found.end = self.at
        if self._is_braced and is_export:
            self.fault.braces(self._brace, found)
        if not CONTROLS.isdisjoint(self.text[found.start : found.end]):
            self.fault.control(found)
        self.document.assignments.append(found)

    # values

    def _unquoted(
        self, parts: list[Part], specials: frozenset[str], ends_user: frozenset[str], *, colon_tilde: bool
    ) -> None:
        """A value (up to a blank or operator), or the word of a `${...}` (up to its brace)."""
        text = self.text
        is_value = specials is IN_VALUE
        has_tilde = True
        while True:
            begin = self.at
            if self._plain(parts, specials):
                has_tilde = False
                if is_value:
                    self._look_for_braces(begin)
            char = text[self.at]
            if char == "\\":
                if text[self.at + 1] == "\n":
                    self.at += 2
                    continue  # nothing was there: a ~ after it is still the first character
                self._escape(parts)
            elif char == ":":
                parts.append(":")
                self.at += 1
                has_tilde = colon_tilde
                continue
            elif char == "~":
                begin = self.at
                self._tilde(parts, ends_user if has_tilde else None)
                if is_value:
                    self._look_for_braces(begin)
            elif char == "'":
                self._single(parts)
            elif char == '"':
                self._double(parts)
            elif char == "$":
                self._dollar(parts, in_double=False, in_word=not is_value)
            elif char == "`":
                self.fault.backtick()
            elif char in "<>" and not is_value:
                self._angle(parts)
            elif char == "\r" and text[self.at + 1] != "\n":
                self.fault.carriage_return()
            else:
                return
            has_tilde = False

    def _plain(self, parts: list[Part], specials: frozenset[str]) -> bool:
        """Take everything before the next special character; True if there was anything."""
        text, begin = self.text, self.at
        at = begin
        while text[at] not in specials:
            at += 1
        if at == begin:
            return False
        parts.append(text[begin:at])
        self.at = at
        return True

    def _look_for_braces(self, begin: int) -> None:
        """Note braces that bash might expand after `export` in the plain characters from `begin` on."""
        if self._brace < 0:
            self._brace = self.text.find("{", begin, self.at)
        if self._brace >= 0:
            self._is_braced |= self.text.find("}", max(begin, self._brace), self.at) >= 0

    def _escape(self, parts: list[Part]) -> None:
        char = self.text[self.at + 1]
        if char == END:
            self.fault.last_backslash()
            return
        parts.append(char)
        self.at += 2

    def _angle(self, parts: list[Part]) -> None:
        """`<` or `>` in the word of a `${...}`: a character, unless it begins a process."""
        char = self.text[self.at]
        if self.text[self.skip(self.at + 1)] == "(":
            self.fault.process(char)
            return
        parts.append(char)
        self.at += 1

    def _tilde(self, parts: list[Part], ends: frozenset[str] | None) -> None:
        """`~`: a home directory up to one of `ends`, or a plain character (None)."""
        text, begin = self.text, self.at
        letters: list[str] = []
        self.at += 1
        if ends is None:
            parts.append("~")
            return
        at = self.skip(self.at)
        while text[at] not in ends:
            if text[at] in QUOTING:  # partly quoted: the shell does not expand it
                parts.append("~")
                return
            letters.append(text[at])
            at = self.skip(at + 1)
        user = "".join(letters)
        if user in ("+", "-") or user.lstrip("+-").isdigit():
            self.fault.stack_folder(begin, user)
        parts.append(Tilde(user))
        self.at = at

    def _single(self, parts: list[Part]) -> None:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise Unclosed(self.at, "an unclosed '", "write the second ' at the value's end")
        parts.append(self.text[self.at + 1 : end])
        self.at = end + 1

    def _double(self, parts: list[Part]) -> None:
        """A string in double quotes."""
        begin = self.at
        self.at += 1
        while True:
            self._plain(parts, _IN_DOUBLE)
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return
            if char == "$":
                self._dollar(parts, in_double=True, in_word=False)
            elif char == "`":
                self.fault.backtick()
            elif char == "\\":
                self._double_escape(parts, '$`"\\')
            else:
                raise Unclosed(begin, 'an unclosed "', "write the second \" at the value's end")

    def _double_escape(self, parts: list[Part], special: str) -> None:
        """A backslash in double quotes: it escapes few characters and is kept otherwise."""
        char = self.text[self.at + 1]
        if char in special:
            parts.append(char)
            self.at += 2
        elif char == "\n":
            self.at += 2
        else:
            parts.append("\\")
            self.at += 1

    def _double_word(self, parts: list[Part]) -> None:
        """The word of a `${...}` in double quotes, up to its brace."""
        while True:
            self._plain(parts, _IN_DOUBLE_WORD)
            char = self.text[self.at]
            if char == "$":
                self._dollar(parts, in_double=True, in_word=True)
            elif char == "\\":
                self._double_escape(parts, '$`"\\}')
            elif char == '"':
                self.fault.inner_double()
            elif char == "`":
                self.fault.backtick()
            elif char == "'":
                parts.append(self.fault.inner_quote())
            elif char in "<>":
                self._angle(parts)
            else:
                return

    def _dollar(self, parts: list[Part], *, in_double: bool, in_word: bool) -> None:
        """What a `$` begins."""
        text, begin = self.text, self.at
        at = self.skip(begin + 1)
        char = text[at]
        if char in NAME_START:
            self.at = at
            place = self.place(begin)
            name = self._name()
            self._require_readable(begin, name)
            parts.append(Expansion(name, *place))
        elif char == "{":
            self.at = self.skip(at + 1)
            self._braces(parts, begin, in_double)
        elif char in "([0123456789@*#?-$!" or (char in "'\"" and (in_word or not in_double)):
            self.fault.dollar(begin, at)
        else:
            parts.append("$")
            self.at = begin + 1

    def _require_readable(self, begin: int, name: str) -> None:
        if (name in SHELL_OWN or name.startswith("BASH_")) and name not in READABLE_OWN:
            self.fault.shell_value(begin, name)

    def _braces(self, parts: list[Part], begin: int, in_double: bool) -> None:
        """`${NAME...}`, from its name on."""
        place = self.place(begin)
        name = self._name()
        found = Expansion(name, *place)
        at = self.skip(self.at)
        if name and self.text[at] == ":" and self.text[self.skip(at + 1)] in "-=+?":
            found.is_colon = True
            at = self.skip(at + 1)
        char = self.text[at]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.fault.nesting(begin)
        if char == END:
            self.at = at
        elif not name or char not in "}-=+?":
            self.fault.other_braces(begin, name, in_double)
        else:
            self._require_readable(begin, name)
            self.at = at
            if char != "}":
                found.operator = char
                self.at += 1
                self.word(found, in_double)
        self._depth -= 1
        if self.text[self.at] != "}":
            raise Unclosed(begin, "an unclosed ${", "write the closing }")
        self.at += 1
        parts.append(found)

    def word(self, found: Expansion, in_double: bool) -> None:
        """The word after an operator, up to its brace."""
        if in_double:
            self._double_word(found.word)
        else:
            is_assigning = found.operator == "="  # bash then expands no ~ after a :
            self._unquoted(found.word, _IN_WORD, _ENDS_USER_IN_WORD, colon_tilde=not is_assigning)
