"""Which worker goes to which node, and a refusal, by role, of what does not fit.

Pure arithmetic over what nodes have; `cluster.session` carries it out by a placement group.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rlhf.problems import InputError

RESOURCES = {"GPU": "GPUs", "CPU": "CPUs", "memory": "of memory"}
"""What is counted, by Ray's names."""


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of worker: how many, and what each of them holds on to."""

    name: str
    count: int
    num_cpus: float
    num_gpus: float
    memory_bytes: int = 0
    """At least so much, on its GPUs if it has any, else on its node."""
    memory_parts: str = ""
    """What the memory is for, in words."""
    beside: str | None = None
    """A role of equal count: worker i shares the seat, and so the GPU, of that role's worker i."""

    @property
    def needs(self) -> dict[str, float]:
        """One worker's share of a node."""
        on_node = 0.0 if self.num_gpus else float(self.memory_bytes)
        return {"GPU": self.num_gpus, "CPU": self.num_cpus, "memory": on_node}


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster, and what is free on it."""

    id: str
    address: str
    free: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Seat:
    """A place on a node that one worker has, or that two share."""

    node: Node
    needs: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where every worker goes: worker i of a role has the role's seat i."""

    roles: tuple[Role, ...]
    seats: tuple[Seat, ...]
    seat_indices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By role, into `seats`."""

    def nodes(self, role: str) -> list[Node]:
        """The node of each of the role's workers."""
        return [self.seats[i].node for i in self.seat_indices[role]]

    def table(self) -> str:
        """The plan as people read it: one line per role."""
        return table(self.roles, {role.name: self._where(role) for role in self.roles})

    def _where(self, role: Role) -> str:
        counts = Counter(node.address for node in self.nodes(role.name))
        places = [f"{address} ×{count}" for address, count in counts.items()]
        shown = places if len(places) <= 4 else [*places[:3], f"{len(places) - 3} more nodes"]
        return ", ".join(shown)


def table(roles: Sequence[Role], where: Mapping[str, str]) -> str:
    """Roles and what one worker of each needs: one line per role."""
    titles = ("role", "workers", "GPUs", "CPUs", "memory", "where", "for")
    lines = [titles, *(_cells(role, where.get(role.name, "")) for role in roles)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numbers = range(1, 5)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(role: Role, where: str) -> tuple[str, ...]:
    memory = format_bytes(role.memory_bytes) if role.memory_bytes else "-"
    numbers = (str(role.count), f"{role.num_gpus:g}", f"{role.num_cpus:g}", memory)
    return (role.name, *numbers, where, role.memory_parts)


def make_plan(roles: Sequence[Role], nodes: Sequence[Node]) -> Plan:
    """Gives every worker a node; raises InputError with needed and available, per role.

    Workers with GPUs fill node after node, so that ranks which talk to each other are together;
    those without are spread, away from GPUs where there is a choice. First in the order of the
    roles; if that does not fit, the largest seats first, which leaves fewer gaps.
    """
    hosts = [role for role in roles if role.beside is None]
    wanted = {role.name: _seat_needs(role, roles) for role in hosts}
    for order in (hosts, sorted(hosts, key=lambda role: _size(wanted[role.name]), reverse=True)):
        if seats := _fill(order, wanted, nodes):
            by_role = {role.name: seats[role.name] for role in hosts}
            return _plan(roles, by_role)
    raise InputError(_shortages(roles, wanted, hosts, nodes))


def _seat_needs(role: Role, roles: Sequence[Role]) -> dict[str, float]:
    """What a seat of the role must have: its worker's needs and those of who sits beside it."""
    needs = [role.needs, *(other.needs for other in roles if other.beside == role.name)]
    return {resource: sum(need[resource] for need in needs) for resource in RESOURCES}


def _size(needs: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(needs[resource] for resource in RESOURCES)


def _fill(
    order: Sequence[Role], wanted: Mapping[str, Mapping[str, float]], nodes: Sequence[Node]
) -> dict[str, list[Seat]] | None:
    """A seat for every worker, one after another; None if one finds no room."""
    free = {node.id: {name: node.free.get(name, 0.0) for name in RESOURCES} for node in nodes}
    # The largest first, so that a group of ranks is on as few nodes as can be.
    by_gpus = sorted(nodes, key=lambda node: -node.free.get("GPU", 0.0))
    taken: dict[str, list[Seat]] = {role.name: [] for role in order}
    for role in order:
        needs = wanted[role.name]
        for _ in range(role.count):
            fitting = [node for node in by_gpus if _fits(needs, free[node.id])]
            if not fitting:
                return None
            if needs["GPU"]:
                node = fitting[0]
            else:
                node = max(fitting, key=lambda n: _idleness(n, free[n.id]["CPU"]))
            for resource, need in needs.items():
                free[node.id][resource] -= need
            taken[role.name].append(Seat(node, needs))
    return taken


def _idleness(node: Node, free_cpus: float) -> tuple[bool, float, float]:
    """Nodes without GPUs first, then by the share of CPUs that is left, then by their number."""
    return not node.free.get("GPU"), free_cpus / max(node.free["CPU"], 1.0), free_cpus


def _fits(needs: Mapping[str, float], free: Mapping[str, float]) -> bool:
    return all(need <= free[resource] + 1e-6 for resource, need in needs.items())


def _plan(roles: Sequence[Role], by_role: Mapping[str, Sequence[Seat]]) -> Plan:
    seats: list[Seat] = []
    indices: dict[str, tuple[int, ...]] = {}
    for name, own in by_role.items():
        indices[name] = tuple(range(len(seats), len(seats) + len(own)))
        seats += own
    for role in roles:
        if role.beside is not None:
            indices[role.name] = indices[role.beside]
    return Plan(tuple(roles), tuple(seats), indices)


def _shortages(
    roles: Sequence[Role],
    wanted: Mapping[str, Mapping[str, float]],
    hosts: Sequence[Role],
    nodes: Sequence[Node],
) -> list[str]:
    """Why the roles do not fit: totals first, else the seats that no node can hold."""
    problems = []
    for resource, unit in RESOURCES.items():
        needed = {role.name: role.count * role.needs[resource] for role in roles}
        total = sum(node.free.get(resource, 0.0) for node in nodes)
        if sum(needed.values()) > total + 1e-6:
            shown = ", ".join(f"{name} {_number(resource, n)}" for name, n in needed.items() if n)
            problems.append(
                f"placement: {_number(resource, sum(needed.values()))} {unit} are needed ({shown}) "
                f"and {_number(resource, total)} are free; start fewer workers or add nodes"
            )
    if problems:
        return problems
    for role in hosts:
        needs = wanted[role.name]
        room = sum(_capacity(needs, node.free) for node in nodes)
        if room < role.count:
            each = ", ".join(
                f"{_number(name, n)} {RESOURCES[name]}" for name, n in needs.items() if n
            )
            problems.append(
                f"placement: each of {role.count} {role.name} workers needs {each} on one node, "
                f"and the nodes have room for {room} such ({_nodes(nodes)}); start fewer or "
                "smaller workers, or add larger nodes"
            )
    return problems or [
        f"placement: {_all_seats(roles)} do not fit on the nodes together ({_nodes(nodes)}); start "
        "fewer workers or add nodes"
    ]


def _capacity(needs: Mapping[str, float], free: Mapping[str, float]) -> int:
    """Seats of one kind that an empty node holds."""
    return min(int((free.get(name, 0.0) + 1e-6) // need) for name, need in needs.items() if need)


def _all_seats(roles: Iterable[Role]) -> str:
    return ", ".join(f"{role.count} {role.name} of {role.num_gpus:g} GPUs" for role in roles)


def _nodes(nodes: Sequence[Node]) -> str:
    kinds = Counter(
        ", ".join(f"{_number(r, node.free.get(r, 0.0))} {unit}" for r, unit in RESOURCES.items())
        for node in nodes
    )
    return "; ".join(f"{count} with {kind}" for kind, count in kinds.most_common(4))


def _number(resource: str, value: float) -> str:
    return format_bytes(int(value)) if resource == "memory" else f"{value:g}"


def format_bytes(count: int) -> str:
    """As GiB, or as MiB below one of them."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
