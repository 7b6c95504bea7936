import { LockError } from '../base/errors.ts'
import { asAdapter, type Connection, type Result, type SqlAdapter, type SqlEngine, type Statement } from './adapter.ts'
import { lender } from './borrowed.ts'

interface Query {
  readonly sql: string
  readonly parameters: readonly unknown[]
  readonly query: {
    readonly kind: 'RawNode'
    readonly sqlFragments: readonly string[]
    readonly parameters: readonly never[]
  }
  readonly queryId: { readonly queryId: string }
}

/** Runs compiled queries: a Kysely, or a Transaction of one. */
interface Executor {
  executeQuery(query: never): Promise<{
    readonly rows: unknown[]
    readonly insertId?: bigint | undefined
    readonly numAffectedRows?: bigint | undefined
  }>
  withoutPlugins(): unknown
}

/** A Kysely of 0.28 or 0.29, for PostgreSQL, MySQL or SQLite. */
export interface KyselyDatabase<Tx> extends Executor {
  readonly isTransaction: boolean
  getExecutor(): { readonly adapter: object }
  transaction(): { execute<T>(use: (tx: Tx) => Promise<T>): Promise<T> }
  connection(): { execute<T>(use: (db: Executor) => Promise<T>): Promise<T> }
}

export interface KyselyOptions {
  /** Needed only for a dialect whose adapter class is not one of Kysely's own, nor named after it. */
  readonly engine?: SqlEngine
  /** `fromPg` or `fromMysql2` of the same database, for the connection that `takeover: 'session'` keeps. */
  readonly sessions?: Pick<SqlAdapter<never>, 'dedicate'>
}

/** PostgreSQL, MySQL, MariaDB or SQLite through Kysely. Guards take its transactions. */
export function fromKysely<Tx extends { readonly isTransaction: boolean }>(
  db: KyselyDatabase<Tx>,
  options: KyselyOptions = {},
): SqlAdapter<Tx> {
  if (typeof db?.executeQuery !== 'function' || typeof db.getExecutor !== 'function' || db.isTransaction) {
    throw new LockError('INVALID_ARGUMENT', 'fromKysely takes a Kysely instance that is not a transaction')
  }
  const dedicate = options.sessions?.dedicate
  const engine = options.engine ?? engineOf(db)
  const reserve = <T>(use: (connection: Connection) => Promise<T>) =>
    db.connection().execute((connection) => use({ query: (statement) => send(connection, statement) }))
  return asAdapter({
    engine,
    // Kysely's own dialect for SQLite has one connection.
    single: engine === 'sqlite',
    transactionOf: (tx) => tx,
    query: (statement) => send(db, statement),
    async queryIn(tx, statement) {
      if (tx?.isTransaction !== true) {
        throw new LockError(
          'INVALID_ARGUMENT',
          'pass the transaction that Kysely gave to your callback, not the Kysely instance',
        )
      }
      return send(tx as unknown as Executor, statement).catch(explainEnd)
    },
    reserve,
    ...(dedicate ? { dedicate } : engine !== 'sqlite' && { borrow: lender(db, reserve) }),
  })
}

async function send(db: Executor, { text, values }: Statement): Promise<Result> {
  const query: Query = {
    sql: text,
    parameters: values,
    query: { kind: 'RawNode', sqlFragments: [text], parameters: [] },
    queryId: { queryId: 'rowlock' },
  }
  // Plugins may rename columns.
  const { rows, insertId, numAffectedRows } = await (db.withoutPlugins() as Executor).executeQuery(query as never)
  return { rows: rows as Record<string, unknown>[], insertId, affectedRows: numAffectedRows }
}

/** It tells by the text of a plain error, which is all that a broken connection has, too. */
function explainEnd(error: unknown): never {
  if (error instanceof Error && /^Transaction is already (committed|rolled back)$/.test(error.message)) {
    throw new LockError('INVALID_ARGUMENT', 'this transaction of Kysely has ended already', { cause: error })
  }
  throw error
}

function engineOf<Tx>(db: KyselyDatabase<Tx>): SqlEngine {
  const name = db.getExecutor().adapter.constructor.name
  if (/postgres|pglite/i.test(name)) return 'postgres'
  if (/mysql/i.test(name)) return 'mysql'
  if (/sqlite/i.test(name)) return 'sqlite'
  throw new LockError(
    'INVALID_ARGUMENT',
    `unknown Kysely dialect (${name}): say fromKysely(db, { engine: 'postgres' | 'mysql' | 'sqlite' })`,
  )
}
