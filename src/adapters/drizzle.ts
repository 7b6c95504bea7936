import { LockError } from '../base/errors.ts'
import {
  asAdapter,
  type Connection,
  connectionIn,
  type Result,
  type SessionOptions,
  type SqlAdapter,
  type SqlEngine,
  type Statement,
} from './adapter.ts'
import { type BetterSqlite3Database, fromBetterSqlite3 } from './better-sqlite3.ts'
import { toResult } from './mysql-result.ts'
import { dedicateMysql2 } from './mysql2-connection.ts'
import { dedicatePg } from './pg-connection.ts'
import type { PostgresJs } from './postgres-js.ts'
import { fromPostgresJs } from './postgres-js.ts'
import { type RowReader, rowReader } from './postgres-js-rows.ts'
import { assertTransactionOpen } from './postgres-transaction.ts'

/** A Drizzle database of node-postgres, postgres.js, mysql2 or better-sqlite3. */
export interface DrizzleDatabase<Tx> {
  transaction(use: (tx: Tx) => never): unknown
}

/** What guards take: transactions. With better-sqlite3 also the database itself, once `begin immediate` has been run on it. */
export type DrizzleTransaction<Db, Tx> = Db extends { all(query: string): unknown[] } ? Tx | Db : Tx

/** Drizzle takes all that looks like its `sql` for one: text and values, as they are. */
interface Sql {
  getSQL(): Sql
  toQuery(): { sql: string; params: readonly unknown[] }
}

interface Executor {
  execute(query: Sql): Promise<unknown>
  transaction<T>(use: (tx: Executor) => Promise<T>): Promise<T>
}

const engines = new Map<string, SqlEngine>([
  ['NodePgDatabase', 'postgres'],
  ['PostgresJsDatabase', 'postgres'],
  ['MySql2Database', 'mysql'],
  ['BetterSQLite3Database', 'sqlite'],
])

/**
 * PostgreSQL, MySQL, MariaDB or SQLite through Drizzle. Guards take its transactions. With better-sqlite3 they work, and
 * throw, synchronously, as its transactions do.
 */
export function fromDrizzle<Db, Tx>(
  db: Db & DrizzleDatabase<Tx>,
  options: SessionOptions = {},
): SqlAdapter<DrizzleTransaction<Db, Tx>> {
  // Of a database with replicas, which is none of Drizzle's classes itself.
  const { $primary: primary = db } = (db ?? {}) as { $primary?: unknown }
  const { $client } = (primary ?? {}) as { $client?: unknown }
  const kinds = kindsOf(primary)
  const engine = kinds.map((kind) => engines.get(kind)).find(Boolean)
  if (engine === undefined) {
    throw new LockError(
      'INVALID_ARGUMENT',
      'fromDrizzle takes what drizzle() answers for node-postgres, postgres.js, mysql2 or better-sqlite3',
    )
  }
  if (engine === 'sqlite') {
    const client = $client as BetterSqlite3Database
    const driver: SqlAdapter<BetterSqlite3Database> = fromBetterSqlite3(client)
    return {
      ...(driver as SqlAdapter<never>),
      queryIn(tx, statement) {
        if (tx !== db && (tx as unknown) !== primary) checkTransaction(tx)
        return driver.queryIn(client, statement)
      },
    }
  }

  const executor = primary as Executor
  const read = kinds.includes('PostgresJsDatabase') ? rowReader($client as PostgresJs) : undefined
  const send = (target: Executor, statement: Statement) => run(engine, target, read, statement)
  const client = (primary as { $client?: unknown }).$client ?? $client
  const own = options.sessions?.dedicate ? { dedicate: options.sessions.dedicate } : ownConnection(engine, client)
  return asAdapter({
    engine,
    query: (statement) => send(executor, statement),
    async queryIn(tx, statement) {
      const told = checkTransaction(tx)
      if (engine === 'postgres' && !told) {
        await assertTransactionOpen((check) => send(tx as Executor, check), transactionEnded)
      }
      return send(tx as Executor, statement)
    },
    reserve: <T>(use: (connection: Connection) => Promise<T>) =>
      executor.transaction((tx) => use(connectionIn((statement) => send(tx, statement)))),
    ...own,
  })
}

/** Beside the pool of the driver's that Drizzle was given; a lone client has none. */
function ownConnection(engine: SqlEngine, client: unknown): Pick<SqlAdapter<never>, 'dedicate' | 'borrow'> {
  if (client === null || (typeof client !== 'object' && typeof client !== 'function')) return {}
  if ('unsafe' in client) {
    const { borrow } = fromPostgresJs(client as unknown as PostgresJs)
    return borrow === undefined ? {} : { borrow }
  }
  return { dedicate: () => (engine === 'postgres' ? dedicatePg(client) : dedicateMysql2(client)) }
}

/** Answers whether the driver has told that the transaction is open. */
function checkTransaction(tx: unknown): boolean {
  if (!kindsOf(tx).some((kind) => /^(Pg|MySql|SQLite)Transaction$/.test(kind))) {
    throw new LockError(
      'INVALID_ARGUMENT',
      'pass the transaction that Drizzle gave to your callback, not the Drizzle database',
    )
  }
  const { session } = tx as { session?: { client?: { getTransactionStatus?(): string | null } } }
  const status = session?.client?.getTransactionStatus?.()
  if (status === 'I') transactionEnded()
  return typeof status === 'string'
}

function transactionEnded(cause?: unknown): never {
  throw new LockError('INVALID_ARGUMENT', 'this transaction of Drizzle has ended already', { cause })
}

async function run(
  engine: SqlEngine,
  executor: Executor,
  read: RowReader | undefined,
  { text, values, callers }: Statement,
): Promise<Result> {
  const query: Sql = { getSQL: () => query, toQuery: () => ({ sql: text, params: values }) }
  let answer: unknown
  try {
    answer = await executor.execute(query)
  } catch (error) {
    // A DrizzleQueryError: codes are on the driver's error.
    throw error instanceof Error && 'params' in error && error.cause !== undefined ? error.cause : error
  }
  if (engine === 'mysql') return toResult(answer as [unknown, unknown])
  // Of node-postgres a result, of postgres.js the rows themselves.
  const rows = (Array.isArray(answer) ? answer : (answer as Result).rows) as Result['rows']
  return { rows: read === undefined || callers ? rows : read(rows) }
}

/** The names by which Drizzle tells its classes apart, also across copies of itself. */
function kindsOf(value: unknown): string[] {
  const kinds: string[] = []
  for (let each = value; each !== null && typeof each === 'object'; each = Object.getPrototypeOf(each)) {
    const kind = (each.constructor as { [entityKind]?: string } | undefined)?.[entityKind]
    if (kind !== undefined) kinds.push(kind)
  }
  return kinds
}

const entityKind = Symbol.for('drizzle:entityKind')
