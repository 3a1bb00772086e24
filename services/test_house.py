"""Tests of the house rules that no linter has: sizes of modules and functions, reasons for exceptions from linters'
rules, no marks like "to do", the actor as a parameter and not from the ambient context, dataclasses instead of
constructors that only assign, no untyped rows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON = sorted(path for folder in ("services", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
MODULE_LINES, TEST_MODULE_LINES, FUNCTION_LINES = 400, 600, 50
EXCEPTION = re.compile(r"#\s*(noqa|type:\s*ignore)(?P<rest>.*)")
WITH_CODE_AND_REASON = re.compile(r"(: [A-Z]+\d+(, [A-Z]+\d+)*|\[[a-z-]+(, [a-z-]+)*\])\s+(#\s*|-\s*)?\S.*")


def is_test(path: Path) -> bool:
    return "tests" in path.parts or path.name in {"conftest.py", "test_house.py"}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_files_are_found() -> None:
    assert len(PYTHON) > 100


def test_no_module_is_too_long() -> None:
    too_long = {
        str(path.relative_to(ROOT)): lines
        for path in PYTHON
        if (lines := len(path.read_text(encoding="utf-8").splitlines()))
        > (TEST_MODULE_LINES if is_test(path) else MODULE_LINES)
    }

    assert not too_long


def test_no_function_is_too_long() -> None:
    too_long = {
        f"{path.relative_to(ROOT)}:{node.name}": (node.end_lineno or 0) - node.lineno
        for path in PYTHON
        if "alembic" not in path.parts
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno > FUNCTION_LINES
    }

    assert not too_long


def test_every_exception_from_a_rule_has_its_code_and_a_reason() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{number}: {match.group(0)}"
        for path in PYTHON
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if path.name != "test_house.py"
        and (match := EXCEPTION.search(line))
        and not WITH_CODE_AND_REASON.match(match["rest"])
    ]

    assert not bare


def test_nothing_is_left_for_later() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX)\b")
    left = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in PYTHON
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if path.name != "test_house.py" and marks.search(line)
    ]

    assert not left


def test_who_acts_is_a_parameter_and_no_ambient_context() -> None:
    log_lines = {"logging_config.py", "request_context.py"}
    ambient = [
        str(path.relative_to(ROOT))
        for path in PYTHON
        if not is_test(path)
        and path.name not in log_lines
        and "user_management" in path.parts
        and re.search(r"\bcontext(\(\))?\.actor\b", path.read_text(encoding="utf-8"))
    ]

    assert not ambient


def only_assigns_parameters(method: ast.stmt) -> bool:
    if not (isinstance(method, ast.FunctionDef) and method.name == "__init__"):
        return False
    parameters = {argument.arg for argument in (*method.args.args, *method.args.kwonlyargs)}
    body = [statement for statement in method.body if not isinstance(statement, ast.Expr)]
    return all(
        isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name) and statement.value.id in parameters
        for statement in body
    )


def test_class_whose_constructor_would_only_assign_is_a_dataclass() -> None:
    """Skip private classes, classes that extend another, and middleware, whose constructor is Starlette's."""
    plain = [
        node.name
        for path in PYTHON
        if path.is_relative_to(ROOT / "services" / "user_management")
        and not is_test(path)
        and "middleware" not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.bases and not node.name.startswith("_")
        if any(only_assigns_parameters(statement) for statement in node.body)
    ]

    assert not plain


WITHOUT_ACTOR = {
    "they report on the process": "HealthService.ready HealthService.probe HealthService.watch"
    " MetricsService.exposition",
    "they keep the keys of the process": "VaultService.load VaultService.active_version VaultService.ensure_proven",
    "they find out who acts": "ServiceAuthentication.authenticate ServiceAuthentication.is_listed SignIn.sign_in"
    " UserStates.find UseRecorder.record",
    "their one statement authenticates the credential": "TokenService.get_valid_token TokenService.refresh_token"
    " TokenService.get_many TokenExchange.exchange",
    "they act as the program itself": "JobService.run WebhookService.receive_clerk_event",
    "they are parts of use cases": "TokenAnswers.answer TokenRefresher.refresh TokenRefresher.drain"
    " RefreshAttempts.carry_out IntegrationProbe.probe IntegrationProbe.ask_about",
    "they are another's, whom we call": "Directory.list_users Directory.existing Directory.get_user",
}
"""Reason → the public coroutines of services that do not take an actor first."""


def test_every_public_method_of_a_service_takes_its_actor_first() -> None:
    """Look at coroutines only, since a function without I/O acts for nobody. A method that is a step of a transaction
    takes the unit of work or the connection first instead of the actor, whom the transaction already has."""
    firsts = {"actor: Principal", "_actor: Principal", "uow: UnitOfWork", "connection: AsyncConnection"}
    without = {
        f"{holder.name}.{method.name}"
        for path in PYTHON
        if path.is_relative_to(ROOT / "services" / "user_management" / "services")
        for holder in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(holder, ast.ClassDef) and not holder.name.startswith("_")
        for method in holder.body
        if isinstance(method, ast.AsyncFunctionDef) and not method.name.startswith("_")
        if firsts.isdisjoint(map(ast.unparse, method.args.args[1:2]))
    }

    assert without == {name for names in WITHOUT_ACTOR.values() for name in names.split()}


RAW_ROWS = {"sa.Row[Any]", "DriverRow"}
"""Rows as the drivers return them, which functions of `queries/` take to make typed rows of them."""
UNTYPED = re.compile(r"\b(dict|Mapping)\[\w+, (Any|object)\]|RowMapping|\bRow\[|\bRecord\b|DriverRow|^Any$")
JSON_DOCUMENTS = {"cursor", "_cursor"}


def annotations(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names and annotations of a class's fields, or of a function's parameters and return value."""
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            if isinstance(statement, ast.AnnAssign):
                yield ast.unparse(statement.target), ast.unparse(statement.annotation)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        given = node.args
        for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
            if argument is not None and argument.annotation is not None:
                yield argument.arg, ast.unparse(argument.annotation)
        if node.returns is not None:
            yield "return", ast.unparse(node.returns)


def test_no_untyped_row_is_in_a_signature_of_queries_or_services() -> None:
    """Look at the fields of classes too."""
    layers = ROOT / "services" / "user_management"
    untyped = {
        f"{path.relative_to(ROOT)}:{getattr(node, 'name', '')}:{name}": annotation
        for path in PYTHON
        if path.is_relative_to(layers / "queries") or path.is_relative_to(layers / "services")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name, annotation in annotations(node)
        if UNTYPED.search(annotation)
        and name not in JSON_DOCUMENTS
        and not (path.is_relative_to(layers / "queries") and name == "row" and annotation in RAW_ROWS)
    }

    assert not untyped
