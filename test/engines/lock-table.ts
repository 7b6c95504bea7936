import type { LockRow, QueuedTicket, RowHolder } from '../../src/protocol/lock-row.ts'
import type { Connected } from '../adapters.ts'
import type { TestEngine } from '../engines.ts'

export type SqlEngine = Exclude<TestEngine['engine'], 'memory'>

/** A row as lock-row.ts has it; times are milliseconds since 1970. */
export interface TableRow {
  readonly row: LockRow
  /** A transaction took the lock last, and left its mark where else the process is that it was handed to. */
  readonly marked: boolean
}

/** The table of locks, read and changed behind the store's back. */
export interface LockTable {
  /** The committed rows, by name. */
  read(): Promise<Map<string, TableRow>>
  /** Of a shared hold, or of the row: of an exclusive hold, or since when nobody has had it. */
  setExpiry(name: string, time: number, slot?: number): Promise<void>
  /** When the waiters of a ticket have waited for long enough. */
  setUntil(name: string, position: number, time: number): Promise<void>
  setToken(name: string, token: bigint): Promise<void>
  clear(): Promise<void>
}

/** An element of the queue's JSON. */
interface StoredTicket {
  readonly id: string
  readonly n: number
  readonly ttl: number
  readonly until: number
  readonly holder: string
  readonly process: string
  readonly session?: string | null
  readonly listening?: boolean
  readonly provenAlive?: boolean
  readonly transaction?: boolean | 0 | 1
  readonly weight?: number | null
  readonly since: number
}

/** How an engine spells what the others have, too. */
interface Dialect {
  readonly columns: string
  readonly slots: string
  /** Where these are if there is no table of slots, and how the expiry of one is changed there. */
  readonly elsewhere?: {
    readonly from: string
    readonly expiry: (slot: number, time: number) => string
  }
  /** Units of the times in the queue, in a millisecond. */
  readonly perMs: number
  readonly expiry: (time: number) => string
  readonly queueWith: (position: number, until: number) => string
  /** Text in the queue's JSON. */
  readonly text: (stored: string) => string
}

const DIALECTS: Record<SqlEngine, Dialect> = {
  postgres: {
    columns: `name, owner, token::text as token, (extract(epoch from expires_at) * 1000)::float8 as expires_at, holder,
              session::text as session, queue::text as queue, handed_to, takeover, permits, used`,
    slots: `name, slot, weight, owner, token::text as token, (extract(epoch from expires_at) * 1000)::float8 as expires_at, holder,
            session::text as session, handed_to, takeover`,
    perMs: 1000,
    expiry: (time) => `to_timestamp(${time / 1000})`,
    queueWith: (position, until) => `jsonb_set(queue, '{${position},until}', '${until}')`,
    text: (text) => text,
  },
  mysql: {
    columns: `convert(name using utf8mb4) as name, convert(owner using utf8mb4) as owner, cast(token as char) as token,
              expires_at / 1000 as expires_at, convert(holder using utf8mb4) as holder,
              convert(session using utf8mb4) as session, cast(queue as char) as queue,
              convert(handed_to using utf8mb4) as handed_to, takeover, permits, used`,
    slots: `convert(name using utf8mb4) as name, slot, weight, convert(owner using utf8mb4) as owner,
            cast(token as char) as token, expires_at / 1000 as expires_at, convert(holder using utf8mb4) as holder,
            convert(session using utf8mb4) as session, convert(handed_to using utf8mb4) as handed_to, takeover`,
    perMs: 1000,
    expiry: (time) => `${time * 1000}`,
    queueWith: (position, until) => `json_set(queue, '$[${position}].until', ${until})`,
    text: (hex) => Buffer.from(hex, 'hex').toString('utf8'),
  },
  sqlite: {
    columns: `name, owner, cast(token as text) as token, expires_at, holder, null as session, queue, handed_to, takeover,
              permits, (select sum(value ->> 'weight') from json_each(shares)) as used`,
    slots: `name, value ->> 'slot' as slot, value ->> 'weight' as weight, value ->> 'owner' as owner,
            value ->> 'token' as token, value ->> 'until' as expires_at, value ->> 'holder' as holder,
            null as session, value ->> 'process' as handed_to, value ->> 'takeover' as takeover`,
    elsewhere: {
      from: 'rowlock_locks, json_each(shares)',
      expiry: (slot, time) =>
        `shares = (select json_group_array(json(case when value ->> 'slot' = ${slot}
                          then json_set(value, '$.until', ${time}) else value end)) from json_each(shares))`,
    },
    perMs: 1,
    expiry: (time) => `${time}`,
    queueWith: (position, until) => `json_set(queue, '$[${position}].until', ${until})`,
    text: (text) => text,
  },
}

export function lockTable(engine: SqlEngine, { sql }: Connected): LockTable {
  const dialect = DIALECTS[engine]
  const update = async (name: string, change: string) => {
    await sql(`update rowlock_locks set ${change} where name = '${name}'`)
  }
  const { elsewhere } = dialect
  const slotsFrom = elsewhere?.from ?? 'rowlock_slots'
  return {
    async read() {
      const rows = await sql(`select ${dialect.columns} from rowlock_locks`)
      const slots = await sql(`select ${dialect.slots} from ${slotsFrom} order by name, slot`)
      return new Map(
        rows.map((columns) => {
          const own = slots.filter(({ name }) => name === columns.name)
          return [columns.name as string, toTableRow(columns, own, dialect)]
        }),
      )
    },
    async setExpiry(name, time, slot) {
      const change = `expires_at = ${dialect.expiry(time)}`
      if (slot === undefined) await update(name, change)
      else if (elsewhere !== undefined) await update(name, elsewhere.expiry(slot, time))
      else await sql(`update rowlock_slots set ${change} where name = '${name}' and slot = ${slot}`)
    },
    setUntil: (name, position, time) => update(name, `queue = ${dialect.queueWith(position, time * dialect.perMs)}`),
    setToken: (name, token) => update(name, `token = ${token}`),
    async clear() {
      await sql('delete from rowlock_locks')
      if (elsewhere === undefined) await sql('delete from rowlock_slots')
    },
  }
}

/** Whether that is not a process, but the transaction that took the lock last. */
export function isMark(handedTo: string | null): boolean {
  return handedTo?.startsWith('transaction ') ?? false
}

type Columns = Readonly<Record<string, unknown>>

function toTableRow(columns: Columns, slots: readonly Columns[], dialect: Dialect): TableRow {
  const owner = columns.owner as string | null
  const token = BigInt(columns.token as string)
  const expiresAt = Number(columns.expires_at)
  const handedTo = columns.handed_to as string | null
  const shared = slots.filter(({ weight }) => Number(weight) > 0).map(toShared)
  const used = shared.reduce((sum, { weight }) => sum + weight!, 0)
  if (used !== Number(columns.used ?? 0))
    throw new Error(`used is ${columns.used}, and the weights are ${used} together`)
  if (owner !== null && used > 0) throw new Error('it is held exclusively, and shared')
  const ends = shared.flatMap(({ released, expiresAt }) => (released ? [expiresAt] : []))
  const queue = JSON.parse((columns.queue as string | null) ?? '[]') as StoredTicket[]
  const row: LockRow = {
    name: columns.name as string,
    permits: columns.permits == null ? null : Number(columns.permits),
    holders: owner === null ? shared.sort(byToken) : [toHolder(columns, owner)],
    token,
    // One column says until when the lock is held, and since when it has been idle, but for holds that ended in their slots.
    idleSince: owner === null ? Math.max(expiresAt, ...ends) : 0,
    queue: queue.map((stored) => toTicket(stored, dialect)),
  }
  return { row, marked: isMark(handedTo) }
}

function toHolder(columns: Columns, owner: string): RowHolder {
  const handedTo = columns.handed_to as string | null
  return {
    owner,
    token: BigInt(columns.token as string),
    label: columns.holder as string,
    session: columns.session as string | null,
    expiresAt: Number(columns.expires_at),
    handedTo: isMark(handedTo) ? null : handedTo,
    takeover: Boolean(columns.takeover),
    weight: null,
  }
}

/** One that is released has no owner any more. */
function toShared(columns: Columns): RowHolder {
  const owner = columns.owner as string | null
  const holder = { ...toHolder(columns, owner ?? ''), weight: Number(columns.weight), slot: Number(columns.slot) }
  return owner === null ? { ...holder, released: true } : holder
}

function byToken(one: RowHolder, other: RowHolder): number {
  return one.token < other.token ? -1 : 1
}

function toTicket(stored: StoredTicket, { perMs, text }: Dialect): QueuedTicket {
  const { id, n, ttl, until, holder, process, session = null } = stored
  return {
    ticket: id,
    weight: stored.weight ?? null,
    since: stored.since / perMs,
    count: n,
    ttlMs: ttl,
    holder: text(holder),
    session: session === null ? null : text(session),
    process: text(process),
    listening: stored.listening ?? false,
    provenAlive: stored.provenAlive ?? false,
    transaction: Boolean(stored.transaction),
    until: until / perMs,
  }
}
