import { type RawBuilder, sql } from 'kysely'
import { toNumber } from '../../adapters/shape.ts'
import { type LockRow, type QueuedTicket, type RowHolder, view, type World } from '../../protocol/lock-row.ts'
import type { LockView } from '../../protocol/store.ts'
import { ALL, type Fragments, NAMES, named, now } from './fragments.ts'
import { bytes, bytesOrNull, text, textOrNull, toHandedTo, toPermits } from './values.ts'

/** All that is known of a lock, by one statement, and so at one moment. */
export interface Whole {
  readonly row: LockRow
  /** As far as it can be read: what is locked cannot. */
  readonly world: Pick<World, 'now' | 'clock' | 'hasSession' | 'sessionEnded'>
  /** Tickets among them, or whoever closes the gate. */
  readonly leasesWait: boolean
  /** As they are in the database, so that a write can ask for what was read. */
  readonly stored: Record<string, unknown>
  readonly slots: ReadonlyMap<number, Record<string, unknown>>
  readonly tickets: ReadonlyMap<string, StoredTicket>
}

/** An element of the queue's JSON; free text in it is hex. */
export interface StoredTicket {
  readonly id: string
  readonly n: number
  readonly weight: number | null
  readonly ttl: number
  readonly since: number
  readonly until: number
  readonly holder: string
  readonly session: string | null
  readonly process: string
  readonly transaction: 0 | 1
  readonly change: string
}

/** Rows of locks, and then those of slots, which are counted from 1, in the same columns. */
export function wholeOf({ locks, slots, view: columns }: Fragments) {
  return (ofLocks: RawBuilder<unknown>, ofSlots: RawBuilder<unknown>) => sql`
        select ${columns}, cast(l.queue as binary) as queue, l.expires_at, ${now} as clock, 0 as slot, 0 as weight
        from ${locks} as l
        where ${ofLocks}
        union all
        select s.name, 0, s.owner, s.token, s.holder, s.session, s.handed_to, s.takeover, null,
               case when s.session is null then 0 else is_free_lock(s.session) end,
               0, null, 0, 0, 0, null, s.expires_at, ${now}, s.slot, s.weight
        from ${slots} as s
        where ${ofSlots}
        limit ${sql.lit(ALL)}`
}

export function wholeStatements(fragments: Fragments) {
  return {
    // Of locks that are shared, and of those that are to be told of in full.
    whole: named(wholeOf(fragments)(sql`l.name in ${NAMES}`, sql`s.name in ${NAMES}`)),
  }
}

/** By name, in the order of names. */
export function toWholes(records: readonly Record<string, unknown>[]): Map<string, Whole> {
  const locks = new Map<string, Record<string, unknown>>()
  const slots = new Map<string, Map<number, Record<string, unknown>>>()
  for (const record of records) {
    const name = text(record.name)
    if (toNumber(record.slot) === 0) {
      locks.set(name, record)
    } else {
      if (!slots.has(name)) slots.set(name, new Map())
      slots.get(name)!.set(toNumber(record.slot), record)
    }
  }
  const sorted = [...locks].sort(([one], [other]) => Buffer.compare(bytes(one), bytes(other)))
  return new Map(sorted.map(([name, stored]) => [name, toWhole(name, stored, slots.get(name) ?? new Map())]))
}

function toWhole(name: string, stored: Record<string, unknown>, slots: Whole['slots']): Whole {
  const queue: StoredTicket[] = stored.queue === null ? [] : JSON.parse(text(stored.queue))
  const exclusive = stored.owner === null ? [] : [{ ...toHolder(stored), weight: null }]
  const shared = [...slots.values()].filter(({ weight }) => toNumber(weight) > 0).map(toSharedHolder)
  const gone = [stored, ...slots.values()].filter(({ session_gone }) => toNumber(session_gone) === 1)
  const sessionsGone = new Set(gone.map(({ session }) => textOrNull(session)))
  const clock = toNumber(stored.clock)
  return {
    row: {
      name,
      permits: toPermits(stored.permits),
      holders: [...exclusive, ...shared].sort((one, other) => (one.token < other.token ? -1 : 1)),
      token: BigInt(stored.token as string | number),
      // One column says until when it is held exclusively, and since when it has been idle.
      idleSince: stored.owner === null ? toMs(stored.expires_at) : 0,
      queue: queue.map(toTicket),
    },
    world: {
      now: clock / 1000,
      clock: BigInt(clock),
      hasSession: () => true,
      sessionEnded: (session) => sessionsGone.has(session),
    },
    leasesWait: toNumber(stored.leases_wait) === 1,
    stored,
    slots,
    tickets: new Map(queue.map((ticket) => [ticket.id, ticket])),
  }
}

function toHolder(record: Record<string, unknown>): Omit<RowHolder, 'weight'> {
  return {
    owner: textOrNull(record.owner) ?? '',
    token: BigInt(record.token as string | number),
    label: textOrNull(record.holder) ?? '',
    session: textOrNull(record.session),
    expiresAt: toMs(record.expires_at),
    handedTo: toHandedTo(record.handed_to),
    takeover: toNumber(record.takeover) === 1,
  }
}

function toSharedHolder(record: Record<string, unknown>): RowHolder {
  const holder = { ...toHolder(record), slot: toNumber(record.slot), weight: toNumber(record.weight) }
  return record.owner === null ? { ...holder, released: true } : holder
}

function toTicket(stored: StoredTicket): QueuedTicket {
  const { id, n, weight, ttl, since, until, holder, session, process, transaction } = stored
  return {
    ticket: id,
    weight,
    count: n,
    ttlMs: ttl,
    since: since / 1000,
    until: until / 1000,
    holder: fromHex(holder),
    session: session === null ? null : fromHex(session),
    process: fromHex(process),
    // What this engine has no use for.
    listening: false,
    provenAlive: false,
    transaction: transaction === 1,
  }
}

/** As whoever waits for it sees it. */
export function toLockView(whole: Whole): LockView {
  return { ...view(whole.row, unlocked(whole.world)), leasesWait: whole.leasesWait }
}

/** For who only looks. */
export function unlocked(world: Whole['world']): World {
  return { ...world, locked: false, protects: () => false }
}

export function toStoredQueue(queue: readonly QueuedTicket[], { tickets }: Whole): Buffer | null {
  if (queue.length === 0) return null
  const stored = queue.map((each): StoredTicket => {
    const known = tickets.get(each.ticket) ?? toStoredTicket(each)
    return { ...known, n: each.count, until: Number(toMicroseconds(each.until)) }
  })
  return bytes(JSON.stringify(stored))
}

function toStoredTicket(queued: QueuedTicket): StoredTicket {
  const { ticket, weight, count, ttlMs, since, until, holder, session, process, transaction } = queued
  return {
    id: ticket,
    n: count,
    weight,
    ttl: ttlMs,
    since: Number(toMicroseconds(since)),
    until: Number(toMicroseconds(until)),
    holder: toHex(holder),
    session: session === null ? null : toHex(session),
    process: toHex(process),
    transaction: transaction ? 1 : 0,
    change: ticket,
  }
}

/** Columns of a hold. */
export function toStoredHolder(holder: RowHolder | undefined) {
  return {
    owner: holder === undefined || holder.released ? null : bytes(holder.owner),
    holder: holder === undefined ? null : bytes(holder.label),
    session: bytesOrNull(holder?.session ?? null),
    handedTo: bytesOrNull(holder?.handedTo ?? null),
    takeover: holder?.takeover ? 1 : 0,
  } as const
}

export function toMicroseconds(ms: number): bigint {
  return BigInt(Math.round(ms * 1000))
}

function toMs(microseconds: unknown): number {
  return toNumber(microseconds) / 1000
}

function toHex(text: string): string {
  return bytes(text).toString('hex').toUpperCase()
}

function fromHex(hex: string): string {
  return Buffer.from(hex, 'hex').toString('utf8')
}
