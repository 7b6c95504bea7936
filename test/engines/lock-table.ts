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
  setExpiry(name: string, time: number): Promise<void>
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
}

/** How an engine spells what the others have, too. */
interface Dialect {
  readonly columns: string
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
              session::text as session, queue::text as queue, handed_to, takeover`,
    perMs: 1000,
    expiry: (time) => `to_timestamp(${time / 1000})`,
    queueWith: (position, until) => `jsonb_set(queue, '{${position},until}', '${until}')`,
    text: (text) => text,
  },
  mysql: {
    columns: `convert(name using utf8mb4) as name, convert(owner using utf8mb4) as owner, cast(token as char) as token,
              expires_at / 1000 as expires_at, convert(holder using utf8mb4) as holder,
              convert(session using utf8mb4) as session, cast(queue as char) as queue,
              convert(handed_to using utf8mb4) as handed_to, takeover`,
    perMs: 1000,
    expiry: (time) => `${time * 1000}`,
    queueWith: (position, until) => `json_set(queue, '$[${position}].until', ${until})`,
    text: (hex) => Buffer.from(hex, 'hex').toString('utf8'),
  },
  sqlite: {
    columns: `name, owner, cast(token as text) as token, expires_at, holder, null as session, queue, handed_to, takeover`,
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
  return {
    async read() {
      const rows = await sql(`select ${dialect.columns} from rowlock_locks`)
      return new Map(rows.map((columns) => [columns.name as string, toTableRow(columns, dialect)]))
    },
    setExpiry: (name, time) => update(name, `expires_at = ${dialect.expiry(time)}`),
    setUntil: (name, position, time) => update(name, `queue = ${dialect.queueWith(position, time * dialect.perMs)}`),
    setToken: (name, token) => update(name, `token = ${token}`),
    async clear() {
      await sql('delete from rowlock_locks')
    },
  }
}

/** Whether that is not a process, but the transaction that took the lock last. */
export function isMark(handedTo: string | null): boolean {
  return handedTo?.startsWith('transaction ') ?? false
}

function toTableRow(columns: Record<string, unknown>, dialect: Dialect): TableRow {
  const owner = columns.owner as string | null
  const token = BigInt(columns.token as string)
  const expiresAt = Number(columns.expires_at)
  const handedTo = columns.handed_to as string | null
  const holder = (owner: string): RowHolder => ({
    owner,
    token,
    label: columns.holder as string,
    session: columns.session as string | null,
    expiresAt,
    handedTo: isMark(handedTo) ? null : handedTo,
    takeover: Boolean(columns.takeover),
  })
  const queue = JSON.parse((columns.queue as string | null) ?? '[]') as StoredTicket[]
  const row: LockRow = {
    name: columns.name as string,
    holders: owner === null ? [] : [holder(owner)],
    token,
    // One column says until when the lock is held, and since when it has been idle.
    idleSince: owner === null ? expiresAt : 0,
    queue: queue.map((stored) => toTicket(stored, dialect)),
  }
  return { row, marked: isMark(handedTo) }
}

function toTicket(stored: StoredTicket, { perMs, text }: Dialect): QueuedTicket {
  const { id, n, ttl, until, holder, process, session = null } = stored
  return {
    ticket: id,
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
