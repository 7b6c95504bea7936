import type { LockRow, QueuedTicket, RowHolder, World } from '../../protocol/lock-row.ts'
import { type AttemptResult, EXCLUSIVE, type Grant, type Hold, type Share } from '../../protocol/store.ts'

/** A row as the driver gives it. */
export type Row = Record<string, unknown>

/** A lock's row as a statement saw it, and when that was. */
export interface Seen {
  /** Undefined if there is none. */
  readonly row: LockRow | undefined
  /** Of the file's clock, and without others: while one of them has locked anything, nobody writes at all. */
  readonly world: World
  /** All of the row, as the text that it is compared by. */
  readonly stored: string | null
}

/** `whole` in fragments.ts. */
interface StoredRow {
  readonly name: string
  readonly owner: string | null
  /** JSON has no bigint. */
  readonly token: string
  readonly expiresAt: number
  readonly holder: string | null
  readonly handedTo: string | null
  readonly takeover: 0 | 1
  readonly permits: number | null
  readonly shares: readonly StoredShare[] | null
  readonly queue: readonly StoredTicket[] | null
}

/** An element of the shared holds' JSON. */
interface StoredShare {
  readonly slot: number
  readonly owner: string
  readonly token: string
  readonly weight: number
  readonly until: number
  readonly holder: string
  /** That it was handed to, and that has not confirmed it. */
  readonly process: string | null
  readonly takeover: boolean
}

/** An element of the queue's JSON. */
interface StoredTicket {
  readonly id: string
  readonly n: number
  readonly weight: number | null
  readonly ttl: number
  readonly holder: string
  readonly process: string
  readonly since: number
  readonly until: number
}

export function byName(rows: readonly Row[]): Map<unknown, Row> {
  return new Map(rows.map((row) => [row.name, row]))
}

export function namesOf(asked: readonly { readonly name: string }[]): string {
  return JSON.stringify([...new Set(asked.map(({ name }) => name))])
}

/** JSON has no bigint. */
export function toJson(holds: readonly Hold[]): string {
  return JSON.stringify(holds.map((hold) => ({ ...hold, token: `${hold.token}` })))
}

export function isExclusive({ weight }: Share): boolean {
  return weight === null
}

export function toGranted(row: Row | undefined): AttemptResult | undefined {
  if (row === undefined) return undefined
  const { token, takeover, checkpointed } = row
  return {
    granted: true,
    token: BigInt(token as string),
    takeover: Number(takeover) === 1,
    checkpointed: Number(checkpointed) === 1,
  }
}

/** What was handed over by a statement that does so to one who waits for all of the lock. */
export function toGrants(row: Row | undefined): Grant[] {
  if (row === undefined || row.handed_to === null) return []
  const { name, owner, token, handed_to, remaining, takeover } = row
  const grant = {
    ...{ name: name as string, owner: owner as string, token: BigInt(token as string) },
    process: handed_to as string,
    remainingMs: Number(remaining),
    takeover: Number(takeover) === 1,
    weight: EXCLUSIVE.weight,
  }
  return [grant]
}

/** Of a row with `seen` (see fragments.ts). */
export function toSeen({ stored, now }: Row): Seen {
  const time = Number(now)
  const world: World = {
    now: time,
    clock: BigInt(time) * 1000n,
    locked: false,
    protects: () => false,
    hasSession: () => false,
    sessionEnded: () => false,
  }
  if (stored === null) return { row: undefined, world, stored }
  return { row: toLockRow(JSON.parse(stored as string)), world, stored: stored as string }
}

function toLockRow({ name, owner, token, expiresAt, holder, handedTo, takeover, ...rest }: StoredRow): LockRow {
  const terms = { label: holder ?? '', session: null, expiresAt, handedTo, takeover: takeover === 1 }
  const exclusive = (owner: string): RowHolder => ({ ...EXCLUSIVE, owner, token: BigInt(token), ...terms })
  return {
    name,
    permits: rest.permits,
    holders: owner === null ? (rest.shares ?? []).map(toShared) : [exclusive(owner)],
    token: BigInt(token),
    // One column says until when it is held exclusively, and since when it has been idle.
    idleSince: owner === null ? expiresAt : 0,
    queue: (rest.queue ?? []).map(toTicket),
  }
}

function toShared({ slot, owner, token, weight, until, holder, process, takeover }: StoredShare): RowHolder {
  return {
    slot,
    owner,
    token: BigInt(token),
    weight,
    label: holder,
    session: null,
    expiresAt: until,
    handedTo: process,
    takeover,
  }
}

function toTicket({ id: ticket, n: count, ttl: ttlMs, ...rest }: StoredTicket): QueuedTicket {
  // What this engine has no use for.
  const unused = { session: null, listening: false, provenAlive: false, transaction: false }
  return { ...rest, ticket, count, ttlMs, ...unused }
}

/** As the statement `write` takes it; what is JSON in the table is text in this. */
export function toStored({ name, permits, holders, token, idleSince, queue }: LockRow) {
  const exclusive = holders.find(isExclusive)
  return {
    ...{ name, permits, token: `${token}` },
    owner: exclusive?.owner ?? null,
    expiresAt: exclusive?.expiresAt ?? idleSince,
    holder: exclusive?.label ?? null,
    handedTo: exclusive?.handedTo ?? null,
    takeover: exclusive?.takeover ? 1 : 0,
    shares: textOf(holders.filter((holder) => !isExclusive(holder)).map(toStoredShare)),
    queue: textOf(queue.map(toStoredTicket)),
  }
}

function toStoredShare({ slot, owner, token, weight, expiresAt, label, handedTo, takeover }: RowHolder): StoredShare {
  return {
    slot: slot!,
    owner,
    token: `${token}`,
    weight: weight!,
    until: expiresAt,
    holder: label,
    process: handedTo,
    takeover,
  }
}

function toStoredTicket({ ticket, count, weight, ttlMs, holder, process, since, until }: QueuedTicket): StoredTicket {
  return { id: ticket, n: count, weight, ttl: ttlMs, holder, process, since, until }
}

/** Null if there are none. */
function textOf(elements: readonly unknown[]): string | null {
  return elements.length === 0 ? null : JSON.stringify(elements)
}
