"""People: who they are, where they have signed in, which links let them in, and what they may in a tenant."""

import re
import secrets as random
from base64 import b64encode
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION
from sqlalchemy import Select, delete, func, literal, or_, select, update
from sqlalchemy.orm import Session

from openremedy import audit, crypto
from openremedy.audit import Actor
from openremedy.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from openremedy.models import Link, LinkPurpose, Membership, Role, SignIn, Tenant, User, now
from openremedy.tenants import find_tenant, unique

MIN_PASSWORD = 8  # OWASP ASVS 5.0, 6.2.1
MAX_PASSWORD = 1000  # argon2 takes any length, a form need not
LONGEST_SIGN_IN = timedelta(days=30)
LONGEST_IDLE = timedelta(days=7)
RECENT = timedelta(minutes=10)  # how long a password that was given again counts
CLOCKS_DIFFER = timedelta(minutes=1)  # at most, the identity provider's and ours
LONG_AGO = datetime.fromtimestamp(0, UTC)
LINK_HOURS = 72
MOST_SIGN_INS = 100  # newest ones that a page lists
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_hasher = PasswordHasher()


# ---------------------------------------------------------------- users


def create_user(
    session: Session,
    email: str,
    password: str,
    slug: str | None,
    role: Role | None,
    actor: Actor = audit.COMMAND_LINE,
) -> str:
    """Create a superadmin (no tenant) or a member of a tenant; returns the role's name.

    Someone who exists already becomes a member of one more tenant and keeps their password.
    Raises Invalid, Conflict, NotFound.
    """
    email = address_of(email)
    tenant = find_tenant(session, slug) if slug is not None else None
    user = find_user(session, email)
    conflict = f"There is a user {email!r} already."
    if user and tenant is None:
        raise Conflict(conflict)
    with unique(session, conflict):
        if user is None:
            user = User(email=email, password_hash=_hash(password), superadmin=tenant is None)
            session.add(user)
        if tenant:
            session.flush()  # the membership needs the user's id
            session.add(Membership(user_id=user.id, tenant_id=tenant.id, role=role or Role.VIEWER))
        as_what = str(role or Role.VIEWER) if tenant else "superadmin"
        session.add(audit.line(actor, tenant.id if tenant else None, "user.created", email, role=as_what))
    return as_what


def address_of(email: str) -> str:
    """An e-mail address as we keep it. Raises Invalid."""
    email = email.strip().lower()
    if not _EMAIL.fullmatch(email) or len(email) > 254 or not email.isprintable():
        raise Invalid(fields={"email": [f"{email[:254]!r} is no e-mail address."]})
    return email


def find_user(session: Session, email: str) -> User | None:
    """The user of this address; nobody has one that is no text."""
    if not email.isprintable():
        return None
    return session.scalar(select(User).where(User.email == email.strip().lower()))


def user_exists(session: Session, email: str) -> bool:
    """Whether somebody of this address signs in already."""
    return find_user(session, email) is not None


def anybody(session: Session) -> bool:
    """Whether there is any user at all; before the first one only a set-up link lets in."""
    return session.scalar(select(User.id).limit(1)) is not None


def get_user(session: Session, user_id: str) -> User:
    """A user by the id. Raises NotFound."""
    user = session.get(User, int(user_id)) if user_id.isascii() and user_id.isdigit() and len(user_id) < 18 else None
    if user is None:
        raise NotFound()
    return user


def _hash(password: str) -> str:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise Invalid(fields={"password": [f"A password has at least {MIN_PASSWORD} characters."]})
    return _hasher.hash(password)


# ---------------------------------------------------------------- signing in


@dataclass(frozen=True)
class Browser:
    """Where somebody signs in from."""

    address: str
    user_agent: str


def _hash_of_nobody() -> str:
    """A hash that no password has, and that costs as much to check as one that somebody's has."""
    salt, digest = (
        b64encode(random.token_bytes(length)).decode().rstrip("=") for length in (_hasher.salt_len, _hasher.hash_len)
    )
    cost = f"m={_hasher.memory_cost},t={_hasher.time_cost},p={_hasher.parallelism}"
    return f"$argon2id$v={ARGON2_VERSION}${cost}${salt}${digest}"


def check_password(user: User | None, password: str) -> bool:
    """Whether it is this user's password; takes the same time for nobody as for somebody."""
    known = user.password_hash if user and user.password_hash and not user.disabled_at else None
    try:
        return _hasher.verify(known or _hash_of_nobody(), password[:MAX_PASSWORD]) and known is not None
    except (VerificationError, InvalidHashError):
        return False


def sign_in(session: Session, email: str, password: str, browser: Browser, actor: Actor) -> str:
    """Check a password and return the token of a new sign-in. Raises Unauthorized."""
    user = find_user(session, email)
    if not check_password(user, password) or user is None:
        raise Unauthorized("This address and this password do not belong together.")
    if user.password_hash and _hasher.check_needs_rehash(user.password_hash):
        user.password_hash = _hasher.hash(password)
    return let_in(session, user, browser, actor, "by password")


def let_in(
    session: Session, user: User, browser: Browser, actor: Actor, how: str, shown_at: datetime | None = None
) -> str:
    """The token of a new sign-in of somebody who has shown who they are, `shown_at` or just now."""
    token = random.token_urlsafe(32)
    row = SignIn(
        token_hash=crypto.hashed(token),
        user_id=user.id,
        confirmed_at=shown_at or now(),
        address=browser.address,
        user_agent=browser.user_agent[:200].encode("ascii", "backslashreplace").decode()[:200],
    )
    session.add(row)
    user.last_sign_in_at = now()
    session.add(audit.line(actor, None, "user.signed_in", user.email, how=how))
    session.commit()
    return token


def find_sign_in(session: Session, token: str) -> tuple[SignIn, User] | None:
    """A live sign-in and whose it is."""
    moment = now()
    statement = (
        select(SignIn, User)
        .join(User, User.id == SignIn.user_id)
        .where(
            SignIn.token_hash == crypto.hashed(token),
            SignIn.created_at > moment - LONGEST_SIGN_IN,
            SignIn.seen_at > moment - LONGEST_IDLE,
            User.disabled_at.is_(None),
        )
    )
    found = session.execute(statement).first()
    return (found[0], found[1]) if found else None


def came_from_here(session: Session, email: str, address: str) -> bool:
    """Whether this user has signed in from this address lately: then strangers elsewhere cannot lock them out."""
    if not email.isprintable():
        return False
    statement = (
        select(SignIn.id)
        .join(User, User.id == SignIn.user_id)
        .where(User.email == email.strip().lower(), SignIn.address == address)
        .limit(1)
    )
    return session.scalar(statement) is not None


def sign_out(session: Session, sign_in_id: int) -> None:
    """End one sign-in."""
    session.execute(delete(SignIn).where(SignIn.id == sign_in_id))
    session.commit()


def sign_ins(session: Session, user_id: int) -> Sequence[SignIn]:
    """Where a user is signed in, the newest of them first."""
    statement = select(SignIn).where(SignIn.user_id == user_id).order_by(SignIn.id.desc())
    return session.scalars(statement.limit(MOST_SIGN_INS)).all()


def end_sign_ins(session: Session, user_id: int, but: int | None = None) -> None:
    """End every sign-in of a user, or every other one. The caller commits."""
    statement = delete(SignIn).where(SignIn.user_id == user_id)
    session.execute(statement if but is None else statement.where(SignIn.id != but))


def confirm(session: Session, sign_in_row: SignIn, user: User, password: str) -> None:
    """Take the password once more, for what is shown only after it. Raises Unauthorized."""
    if not check_password(user, password):
        raise Unauthorized("This is not your password.")
    sign_in_row.confirmed_at = now()
    session.commit()


def confirmed(sign_in_row: SignIn) -> bool:
    """Whether the password was given within the last minutes."""
    return now() - sign_in_row.confirmed_at < RECENT


def change_password(session: Session, user: User, current: str, password: str, actor: Actor, keep: int | None) -> None:
    """Give a user a new password; every other sign-in of theirs ends. Raises Unauthorized, Invalid."""
    if not check_password(user, current):
        raise Unauthorized("The current password is not right.")
    user.password_hash = _hash(password)
    _void(session, LinkPurpose.RESET, user.email)
    end_sign_ins(session, user.id, keep)
    session.add(audit.line(actor, None, "user.password_changed", user.email))
    session.commit()


# ---------------------------------------------------------------- single sign-on


@dataclass(frozen=True)
class Identity:
    """Who somebody is at the identity provider."""

    subject: str  # "<issuer> <subject>", which never changes as an address may
    email: str  # as the provider writes it; empty when it tells none
    verified: bool  # whether the provider says that the address is theirs
    shown_at: datetime | None  # when they gave their password there; None when it does not tell

    @property
    def address(self) -> str | None:
        """The address as we keep it, if the provider vouches for it."""
        if not self.verified or any(letter != letter.lower() for letter in self.email if not letter.isascii()):
            return None  # the Kelvin sign in lower case is a k, and so it would be somebody else's address
        try:
            return address_of(self.email)
        except Invalid:
            return None


def arrive(session: Session, identity: Identity, actor: Actor) -> User:
    """The user whom somebody from the identity provider is; invitations to their address are taken.

    Known by the subject; else by the address, which is then linked to it; else by an invitation, which makes a user
    without a password. Raises Forbidden, Conflict.
    """
    with unique(session, "You came in twice at the same moment. Please start again."):
        user = _known(session, identity) or _link_once(session, identity, actor)
        if user.disabled_at:
            raise Forbidden("Your account here is disabled. Ask whoever runs this installation.")
        if user.password_hash is None and identity.address == user.email:
            _take_invitations(session, user, actor)
    return user


def _known(session: Session, identity: Identity) -> User | None:
    return session.scalar(select(User).where(User.oidc_subject == identity.subject))


def _link_once(session: Session, identity: Identity, actor: Actor) -> User:
    """Who is refused may have come in by another window since we looked, and used the invitation up there."""
    try:
        return _link(session, identity, actor)
    except Forbidden:
        user = _known(session, identity)
        if user is None:
            raise
        return user


def _link(session: Session, identity: Identity, actor: Actor) -> User:
    if identity.address is None:
        told = f" that {identity.email[:254]} is yours" if identity.email else " your e-mail address"
        raise Forbidden(f"The identity provider does not confirm{told}. Without that nobody here can know you.")
    user = find_user(session, identity.address)
    if user is None:
        user = _invited(session, identity.address)
    elif user.disabled_at:
        return user
    session.flush()
    mine = update(User).where(User.id == user.id, User.oidc_subject.is_(None)).values(oidc_subject=identity.subject)
    if not session.execute(mine.returning(User.id)).all():
        raise Forbidden(f"{user.email} belongs to another account of the identity provider. Ask an admin.")
    session.add(audit.line(_named(user, actor), None, "user.linked", user.email, subject=identity.subject))
    return user


def _invited(session: Session, email: str) -> User:
    """A user without a password, for an address that is invited."""
    if session.scalar(_invitations(email).limit(1)) is None:
        raise Forbidden(f"Nobody here knows {email}. Ask an admin to invite you.")
    user = User(email=email)
    session.add(user)
    return user


def _invitations(email: str) -> Select[Link]:
    return select(Link).where(
        Link.purpose == LinkPurpose.INVITE, Link.email == email, Link.used_at.is_(None), Link.expires_at > now()
    )


def _take_invitations(session: Session, user: User, actor: Actor) -> None:
    """All that are open. Who has a password takes them with it, by their link."""
    for link in session.scalars(_invitations(user.email).order_by(Link.id)).all():
        taken = update(Link).where(Link.id == link.id, Link.used_at.is_(None)).values(used_at=now())
        if session.execute(taken.returning(Link.id)).all():
            _accept(session, user, link, actor)


def _accept(session: Session, user: User, link: Link, actor: Actor) -> None:
    """What an invitation gives."""
    if link.tenant_id:
        _join(session, user, link.tenant_id, link.role or Role.VIEWER)
    else:
        user.superadmin = True
    session.add(audit.line(_named(user, actor), link.tenant_id, "link.used", user.email))


def _named(user: User, actor: Actor) -> Actor:
    return Actor(user.email, actor.address, actor.request_id)


def confirm_at_provider(
    session: Session, sign_in_id: int, identity: Identity, asked_at: datetime, actor: Actor
) -> None:
    """Somebody signed in has given their password at the provider once more. Raises Forbidden, Unauthorized."""
    row = session.get(SignIn, sign_in_id)
    user = session.get(User, row.user_id) if row else None
    if row is None or user is None or user.disabled_at:
        raise Unauthorized("Your sign-in has ended. Please sign in again.")
    if user.oidc_subject != identity.subject:
        raise Forbidden(f"There you signed in as somebody else than {user.email}.")
    if identity.shown_at is None or identity.shown_at < asked_at - CLOCKS_DIFFER:
        raise Forbidden("The identity provider did not ask you for your password again.")
    row.confirmed_at = now()
    session.add(audit.line(actor, None, "user.confirmed", user.email))
    session.commit()


def unlink(session: Session, email: str, actor: Actor) -> None:
    """Forget who a user is at the identity provider: the next who comes with the address is linked. Raises NotFound."""
    user = find_user(session, email)
    if user is None:
        raise NotFound(f"There is no user {email!r}.")
    if user.oidc_subject is None:
        return
    session.add(audit.line(actor, None, "user.unlinked", user.email, subject=user.oidc_subject))
    user.oidc_subject = None
    end_sign_ins(session, user.id)
    session.commit()


# ---------------------------------------------------------------- links that let in once


def make_link(
    session: Session,
    purpose: LinkPurpose,
    actor: Actor,
    email: str | None = None,
    tenant_id: int | None = None,
    role: Role | None = None,
    hours: float = LINK_HOURS,
) -> str:
    """The token of a new link; only its hash is kept. An earlier one for the same is void. Raises Invalid."""
    email = address_of(email) if email is not None else None
    _void(session, purpose, email, tenant_id)
    token = random.token_urlsafe(32)
    link = Link(token_hash=crypto.hashed(token), purpose=purpose, email=email, tenant_id=tenant_id, role=role)
    link.expires_at = now() + timedelta(hours=hours)
    session.add(link)
    session.add(audit.line(actor, tenant_id, f"link.{purpose}", email or "", role=role and str(role)))
    session.commit()
    return token


def _void(session: Session, purpose: LinkPurpose, email: str | None, tenant_id: int | None = None) -> None:
    """End the links of this kind that nobody has taken. The caller commits."""
    live = update(Link).where(Link.purpose == purpose, Link.email == email, Link.used_at.is_(None))
    if purpose is LinkPurpose.INVITE:
        live = live.where(Link.tenant_id == tenant_id)
    session.execute(live.values(used_at=now()))


def link_url(public_url: str, token: str) -> str:
    """The link to hand over."""
    return f"{public_url}/link/{token}"


def invite(session: Session, email: str, tenant_id: int, role: Role, actor: Actor) -> str:
    """The token of a link that makes somebody a member. Raises Invalid (no address, or a member already)."""
    email = address_of(email)
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update())
    member = select(User.id).join(Membership).where(User.email == email, Membership.tenant_id == tenant_id)
    if session.scalar(member) is not None:
        raise Invalid(fields={"email": ["Is a member already; change the role in the list."]})
    return make_link(session, LinkPurpose.INVITE, actor, email, tenant_id, role)


def invite_superadmin(session: Session, email: str, actor: Actor) -> str:
    """The token of a link that makes somebody a superadmin. Raises Invalid (no address, or one already)."""
    user = find_user(session, address_of(email))
    if user and user.superadmin:
        raise Invalid(fields={"email": ["Is a superadmin already."]})
    return make_link(session, LinkPurpose.INVITE, actor, email)


def reset_link(session: Session, user: User, actor: Actor) -> str:
    """The token of a link for a new password. Raises Conflict (a disabled user)."""
    if user.disabled_at:
        raise Conflict(f"{user.email} is disabled; a new password would not let them in.")
    return make_link(session, LinkPurpose.RESET, actor, user.email)


def find_link(session: Session, token: str) -> Link | None:
    """A link that still works."""
    statement = select(Link).where(
        Link.token_hash == crypto.hashed(token), Link.used_at.is_(None), Link.expires_at > now()
    )
    return session.scalar(statement)


def open_invitations(session: Session, tenant_id: int | None) -> Sequence[Link]:
    """The invitations to a tenant (None: of superadmins) that nobody has taken yet."""
    statement = select(Link).where(
        Link.purpose == LinkPurpose.INVITE, Link.used_at.is_(None), Link.expires_at > now(), Link.tenant_id == tenant_id
    )
    return session.scalars(statement.order_by(Link.id.desc())).all()


def revoke_link(session: Session, tenant_id: int | None, link_id: str, actor: Actor) -> None:
    """Take an invitation back. Raises NotFound."""
    link = next((one for one in open_invitations(session, tenant_id) if str(one.id) == link_id), None)
    if link is None:
        raise NotFound()
    link.used_at = now()
    session.add(audit.line(actor, tenant_id, "link.revoked", link.email or ""))
    session.commit()


def use_link(session: Session, token: str, email: str, password: str, actor: Actor) -> User:
    """Take what a link offers: become the first superadmin, a member, or get a new password.

    The address is that of the link where it has one. Somebody who is a user already shows it with their password.
    Raises NotFound (no such link, or used), Invalid, Unauthorized.
    """
    used = update(Link).where(Link.token_hash == crypto.hashed(token), Link.used_at.is_(None), Link.expires_at > now())
    with unique(session, "Somebody with this address was faster; sign in instead."):
        link = session.scalar(used.values(used_at=now()).returning(Link))
        if link is None:
            raise NotFound("This link has been used, or its time is over. Ask for a new one.")
        user = _person(session, link, address_of(link.email or email), password)
        session.flush()
        if link.tenant_id:
            _join(session, user, link.tenant_id, link.role or Role.VIEWER)
        session.add(audit.line(_named(user, actor), link.tenant_id, "link.used", user.email))
    return user


def _person(session: Session, link: Link, email: str, password: str) -> User:
    user = find_user(session, email)
    superadmin = link.tenant_id is None and link.purpose is not LinkPurpose.RESET
    if link.purpose is LinkPurpose.SETUP and anybody(session):
        raise NotFound("Somebody has set this installation up already; sign in instead.")
    if link.purpose is LinkPurpose.RESET:
        if user is None or user.disabled_at:
            raise NotFound()
        user.password_hash = _hash(password)
        end_sign_ins(session, user.id)
        return user
    if user is None:
        user = User(email=email, password_hash=_hash(password), superadmin=superadmin)
        session.add(user)
    elif not check_password(user, password):
        raise Unauthorized("You have an account already: give the password that you sign in with.")
    else:
        user.superadmin = user.superadmin or superadmin
    return user


def _join(session: Session, user: User, tenant_id: int, role: Role) -> None:
    member = session.get(Membership, (user.id, tenant_id))
    if member is None:
        session.add(Membership(user_id=user.id, tenant_id=tenant_id, role=role))
    elif not member.role.may(role):
        member.role = role


# ---------------------------------------------------------------- members


@dataclass(frozen=True)
class Place:
    """A tenant that a user may enter, and as what."""

    tenant: Tenant
    role: Role


def places(session: Session, user: User, most: int | None = None) -> list[Place]:
    """The enabled tenants a user may enter, by name, at most so many; a superadmin may enter all."""
    mine = (Membership.tenant_id == Tenant.id) & (Membership.user_id == user.id)
    statement = (
        select(Tenant, Membership.role)
        .outerjoin(Membership, mine)
        .where(Tenant.disabled_at.is_(None), or_(Membership.user_id.is_not(None), literal(user.superadmin)))
        .order_by(Tenant.name, Tenant.slug)
        .limit(most)
    )
    return [Place(tenant, Role.ADMIN if user.superadmin else role) for tenant, role in session.execute(statement)]


def place(session: Session, user: User, slug: str) -> Place | None:
    """The tenant of this slug if the user may enter it, disabled ones too."""
    statement = (
        select(Tenant, Membership.role)
        .outerjoin(Membership, (Membership.tenant_id == Tenant.id) & (Membership.user_id == user.id))
        .where(Tenant.slug == slug, or_(Membership.user_id.is_not(None), literal(user.superadmin)))
    )
    found = session.execute(statement).first()
    return Place(found[0], Role.ADMIN if user.superadmin else found[1]) if found else None


def members(session: Session, tenant_id: int) -> list[tuple[User, Role]]:
    """The members of a tenant, by address."""
    statement = (
        select(User, Membership.role)
        .join(Membership, Membership.user_id == User.id)
        .where(Membership.tenant_id == tenant_id)
        .order_by(User.email)
    )
    return [(user, role) for user, role in session.execute(statement)]


def set_role(session: Session, tenant_id: int, user_id: str, role: Role, actor: Actor) -> None:
    """Change what a member may. Raises NotFound, Conflict (the last admin)."""
    member, user = _member(session, tenant_id, user_id)
    if member.role is role:
        return
    if member.role is Role.ADMIN:
        _not_the_last_admin(session, tenant_id, user)
    session.add(audit.line(actor, tenant_id, "member.role", user.email, before=str(member.role), after=str(role)))
    member.role = role
    _void(session, LinkPurpose.INVITE, user.email, tenant_id)  # it would give back what is taken here
    session.commit()


def remove_member(session: Session, tenant_id: int, user_id: str, actor: Actor) -> None:
    """End a membership, and wherever the user is signed in. Raises NotFound, Conflict (the last admin)."""
    member, user = _member(session, tenant_id, user_id)
    if member.role is Role.ADMIN:
        _not_the_last_admin(session, tenant_id, user)
    session.delete(member)
    _void(session, LinkPurpose.INVITE, user.email, tenant_id)
    end_sign_ins(session, user.id)
    session.add(audit.line(actor, tenant_id, "member.removed", user.email))
    session.commit()


def _member(session: Session, tenant_id: int, user_id: str) -> tuple[Membership, User]:
    """A member, with the tenant locked: two admins who remove each other follow each other. Raises NotFound."""
    session.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update())
    user = get_user(session, user_id)
    member = session.get(Membership, (user.id, tenant_id), populate_existing=True)
    if member is None:
        raise NotFound()
    return member, user


def _not_the_last_admin(session: Session, tenant_id: int, user: User) -> None:
    others = (
        select(func.count())
        .select_from(Membership)
        .join(User, User.id == Membership.user_id)
        .where(
            Membership.tenant_id == tenant_id,
            Membership.role == Role.ADMIN,
            Membership.user_id != user.id,
            User.disabled_at.is_(None),
        )
    )
    if not session.scalar(others):
        raise Conflict(f"{user.email} is the last admin; make somebody else one first.")


# ---------------------------------------------------------------- superadmins


def users(session: Session, part: str = "", limit: int | None = None) -> Sequence[User]:
    """Every user whose address contains `part`, by address."""
    found = select(User).order_by(User.email).limit(limit)
    return session.scalars(found.where(User.email.icontains(part, autoescape=True)) if part else found).all()


def memberships(session: Session, found: Sequence[User]) -> Mapping[int, Sequence[tuple[str, Role]]]:
    """Where each of these users is a member: the slug and the role, by the user's id."""
    statement = (
        select(Membership.user_id, Tenant.slug, Membership.role)
        .join(Tenant, Tenant.id == Membership.tenant_id)
        .where(Membership.user_id.in_([user.id for user in found]))
        .order_by(Tenant.slug)
    )
    places_of: dict[int, list[tuple[str, Role]]] = defaultdict(list)
    for user_id, slug, role in session.execute(statement):
        places_of[user_id].append((slug, role))
    return places_of


def set_disabled(session: Session, user_id: str, disabled: bool, actor: Actor) -> None:
    """Let a user in no more, or again; a disabled one is signed out everywhere. Raises NotFound, Conflict."""
    user = get_user(session, user_id)
    if disabled and user.superadmin:
        _not_the_last_superadmin(session, user)
    if disabled == (user.disabled_at is not None):
        return
    user.disabled_at = now() if disabled else None
    _void(session, LinkPurpose.RESET, user.email)
    end_sign_ins(session, user.id)
    session.add(audit.line(actor, None, "user.disabled" if disabled else "user.enabled", user.email))
    session.commit()


def set_superadmin(session: Session, user_id: str, superadmin: bool, actor: Actor) -> None:
    """Let a user act for the whole installation, or no more. Raises NotFound, Conflict."""
    user = get_user(session, user_id)
    if not superadmin and user.superadmin:
        _not_the_last_superadmin(session, user)
    if user.superadmin == superadmin:
        return
    user.superadmin = superadmin
    _void(session, LinkPurpose.INVITE, user.email)
    session.add(audit.line(actor, None, "user.superadmin", user.email, after=superadmin))
    session.commit()


def _not_the_last_superadmin(session: Session, user: User) -> None:
    # Locked, so that two who disable each other follow each other.
    enabled = select(User.id).where(User.superadmin, User.disabled_at.is_(None)).order_by(User.id).with_for_update()
    if not [one for one in session.scalars(enabled) if one != user.id]:
        raise Conflict(f"{user.email} is the last superadmin; make somebody else one first.")
