import { brand, isBranded } from '../base/brand.ts'
import { DatabaseError, LockError } from '../base/errors.ts'
import type { MemoryDatabase } from './memory-database.ts'

/** Text and values in ... */
export interface Statement {
  readonly text: string
  readonly values: readonly unknown[]
  /** The same text has the same name, for drivers that prepare statements; absent if the text hardly ever recurs. */
  readonly name?: string
  /** false: a power failure may undo it, so that no adapter needs to wait for the disk. */
  readonly durable?: boolean
  /** True: the text is the caller's, and rows come back in whatever shape the caller has set up. Else in the driver's own. */
  readonly callers?: boolean
}

/** ... rows out. */
export interface Result {
  readonly rows: readonly Record<string, unknown>[]
  /** MySQL and MariaDB: what `last_insert_id(expression)` was set to; absent or 0 when no row was reached. */
  readonly insertId?: bigint | number | string | undefined
  /** MySQL and MariaDB: rows that an UPDATE matched, or only those it changed, as the client was set up. */
  readonly affectedRows?: bigint | number | undefined
  /** Whether a transaction was open after the statement, if the driver passes on what the server says. */
  readonly inTransaction?: boolean | undefined
}

export type SqlEngine = 'postgres' | 'mysql' | 'sqlite'

/** One connection, reserved until the function it was given to ends. */
export interface Connection {
  query(statement: Statement): Promise<Result>
}

/** A connection kept for as long as this process holds locks by it. It does not keep the process alive. */
export interface DedicatedConnection extends Connection {
  /** The server's process or thread id as the driver was told it: a pooler in between betrays itself by another one. */
  readonly backendId: number | undefined
  /** Calls `listener` with the payload of every notification; absent if the driver does not pass them on. */
  onNotification?(listener: (payload: string) => void): void
  /** Calls `listener` once, when the connection is gone for whatever reason but `close`. */
  onLost(listener: (cause: unknown) => void): void
  /** Calls `listener` with what is wrong with the pool that lends this connection, as far as that shows. */
  onWarning?(listener: (message: string) => void): void
  close(): Promise<void>
  /** It does not answer: ends it, also for others that it is shared with. */
  drop?(): Promise<void>
}

/** What ran in it has been rolled back, together with it. */
export function transactionLeftOpen(cause?: unknown): DatabaseError {
  return new DatabaseError(
    'unavailable',
    'a connection of the pool had an open transaction, or autocommit is off on it, so that nothing done on it by itself would be committed. That transaction was rolled back, and the connection closed. Find who gives connections back without COMMIT or ROLLBACK, or with SET autocommit = 0',
    { cause },
  )
}

export function noOwnConnection(orm: string): LockError {
  return new LockError(
    'UNSUPPORTED',
    `this instance of ${orm} opens no connection beside its pool: give the adapter the option sessions (fromPg or fromMysql2 of the same database)`,
  )
}

/** Tells one listener, once, that a connection is gone, even if that happened before it listened. */
export class Loss {
  #lost: { cause: unknown } | undefined
  #expected = false
  #listener: ((cause: unknown) => void) | undefined

  readonly lose = (cause: unknown): void => {
    if (this.#expected || this.#lost !== undefined) return
    this.#lost = { cause }
    this.#listener?.(cause)
  }

  readonly onLost = (listener: (cause: unknown) => void): void => {
    if (this.#lost !== undefined) listener(this.#lost.cause)
    else this.#listener = listener
  }

  /** From now on it is no loss. */
  expect(): void {
    this.#expected = true
  }
}

/** What a driver or an ORM has to offer, and the type `Tx` of its open transactions, which `guard` accepts. */
export interface SqlAdapter<Tx> {
  readonly engine: SqlEngine
  /** True if `queryIn` answers synchronously. */
  readonly synchronous?: boolean
  /** True if there is one connection for all: nothing can be asked beside an open transaction. */
  readonly single?: boolean
  /** MySQL and MariaDB: results in the caller's transactions have no `insertId`, and `affectedRows` counts the matched. */
  readonly tellsNoInsertId?: boolean
  /** Runs one statement that commits by itself. */
  query(statement: Statement): Promise<Result>
  /**
   * Runs one statement in the caller's open transaction. Synchronous drivers answer (and throw) synchronously, so that a
   * guard works in their synchronous transactions. Throws INVALID_ARGUMENT for a handle that is no open transaction.
   */
  queryIn(tx: Tx, statement: Statement): Result | Promise<Result>
  /**
   * SQLite: an object that belongs to this transaction alone. Absent where one handle serves all transactions, so that nothing
   * tells whether the one that is open now is the one of before.
   */
  transactionOf?(tx: Tx): object | undefined
  /** Runs several statements on one connection. */
  reserve<T>(use: (connection: Connection) => Promise<T>): Promise<T>
  /**
   * PostgreSQL: passes on the notifications of a channel, on a connection that the driver keeps up by itself, until the
   * function that it resolves with is called. Not needed where `dedicate` gives connections that pass them on.
   */
  listen?(channel: string, listener: (payload: string) => void): Promise<() => Promise<void>>
  /** Opens a connection of rowlock's own beside the pool, with the pool's settings, if the driver can tell when it breaks. */
  dedicate?(): Promise<DedicatedConnection>
  /** Keeps a connection of the pool, where none can be opened; not if that would be the pool's only one. */
  borrow?(): Promise<DedicatedConnection>
}

export interface SessionOptions {
  /**
   * `fromPg` or `fromMysql2` of the same database, for the connection of rowlock's own, where the adapter can open none, or where
   * its pool goes through a proxy that shares sessions.
   */
  readonly sessions?: Pick<SqlAdapter<never>, 'dedicate'>
}

/** What `reserve` gives where only a transaction keeps a connection: there is no need to begin another one in it. */
export function connectionIn(query: Connection['query']): Connection {
  return {
    query: async (statement) =>
      /^(begin|begin immediate|commit|rollback)$/.test(statement.text) ? { rows: [] } : query(statement),
  }
}

/** The in-memory engine has no SQL to run. */
export interface MemoryAdapter {
  readonly engine: 'memory'
  readonly database: MemoryDatabase
}

const BRAND = 'adapter'

/** Every adapter is made by this. The brand is no part of the types, in which that of another copy would be another symbol. */
export function asAdapter<Made extends SqlAdapter<never> | MemoryAdapter>(made: Made): Made {
  return brand(made, BRAND)
}

export function isAdapter(value: unknown): boolean {
  return isBranded(value, BRAND)
}
