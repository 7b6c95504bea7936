import { LockError } from '../base/errors.ts'
import {
  asAdapter,
  type Connection,
  connectionIn,
  type DedicatedConnection,
  noOwnConnection,
  type Result,
  type SessionOptions,
  type SqlAdapter,
  type SqlEngine,
  type Statement,
} from './adapter.ts'
import { answersRows, toResult } from './mysql-result.ts'
import { connectedRaw } from './raw-connection.ts'

/** A Transaction of Sequelize 6. */
export interface SequelizeTransaction {
  commit(): Promise<void>
  rollback(): Promise<void>
  readonly afterCommit: object
}

interface Transaction extends SequelizeTransaction {
  readonly connection?: unknown
  readonly finished?: string
}

/** A Sequelize 6 for PostgreSQL, MySQL, MariaDB or SQLite. */
export interface SequelizeInstance {
  getDialect(): string
  query(sql: string, options: never): Promise<[unknown, unknown]>
  transaction<T>(options: never, use: (tx: never) => PromiseLike<T>): Promise<T>
}

const engines: Record<string, SqlEngine> = { postgres: 'postgres', mysql: 'mysql', mariadb: 'mysql', sqlite: 'sqlite' }

/** PostgreSQL, MySQL, MariaDB or SQLite through Sequelize. Guards take its transactions. */
export function fromSequelize(
  sequelize: SequelizeInstance,
  options: SessionOptions = {},
): SqlAdapter<SequelizeTransaction> {
  if (typeof sequelize?.getDialect !== 'function' || typeof sequelize.query !== 'function') {
    throw new LockError('INVALID_ARGUMENT', 'fromSequelize takes a Sequelize instance')
  }
  const engine = engines[sequelize.getDialect()]
  if (engine === undefined) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `fromSequelize knows postgres, mysql, mariadb and sqlite, and not ${sequelize.getDialect()}`,
    )
  }
  const dedicate =
    options.sessions?.dedicate ?? (engine === 'sqlite' ? undefined : () => dedicateSequelize(engine, sequelize))
  return asAdapter({
    engine,
    // In a file, each transaction has a connection of its own.
    single: engine === 'sqlite' && isInMemory(sequelize),
    transactionOf: (tx) => tx,
    // null, or a transaction found by CLS would be taken.
    query: (statement) => send(engine, sequelize, null, statement),
    async queryIn(tx, statement) {
      const { connection, finished } = (tx ?? {}) as Transaction
      if (connection === undefined || finished !== undefined) {
        throw new LockError(
          'INVALID_ARGUMENT',
          'pass the transaction that Sequelize gave to your callback, while it is open; not the Sequelize instance',
        )
      }
      return send(engine, sequelize, tx, statement)
    },
    reserve: <T>(use: (connection: Connection) => Promise<T>) =>
      sequelize.transaction({ type: 'IMMEDIATE' } as never, (tx) =>
        use(connectionIn((statement) => send(engine, sequelize, tx, statement))),
      ),
    ...(dedicate && { dedicate }),
  })
}

/** By its first words Sequelize takes a statement for one that returns no rows, unless a comment comes before them. */
async function send(
  engine: SqlEngine,
  sequelize: SequelizeInstance,
  transaction: SequelizeTransaction | null,
  { text, values }: Statement,
): Promise<Result> {
  const [sql, placed] = engine === 'postgres' ? [text, 'bind'] : [`/* rowlock */ ${text}`, 'replacements']
  // With the driver `mariadb` of today, rows come back from no other type of query.
  const type = engine === 'mysql' && answersRows(text) ? 'SELECT' : 'RAW'
  try {
    const answer = await sequelize.query(sql, {
      type,
      transaction,
      // Rowlock has a patience of its own, reads what was written a moment ago, and takes rows as they are, whatever the
      // instance has as its `query` options.
      retry: { max: 1 },
      useMaster: true,
      raw: true,
      plain: false,
      nest: false,
      mapToModel: false,
      ...(values.length > 0 && { [placed]: [...values] }),
    } as never)
    if (engine === 'mysql') return toResult(type === 'RAW' ? answer : [answer, undefined])
    return { rows: Array.isArray(answer[0]) ? answer[0] : [] }
  } catch (error) {
    const { name, original } = error as { name?: unknown; original?: unknown }
    // What lies beneath does not tell that it was the pool that had no connection.
    throw name === 'SequelizeConnectionAcquireTimeoutError' ? error : (original ?? error)
  }
}

/** Beside the pool, made as those of the pool are, hooks included; of a replicated instance, to the primary. */
async function dedicateSequelize(engine: SqlEngine, sequelize: SequelizeInstance): Promise<DedicatedConnection> {
  const { connectionManager, config, options } = sequelize as {
    connectionManager?: { _connect?(config: object): Promise<unknown> }
    config?: object
    options?: { replication?: false | { write?: object } }
  }
  if (connectionManager?._connect === undefined || config === undefined) throw noOwnConnection('Sequelize')
  const primary = options?.replication ? options.replication.write : undefined
  return connectedRaw(engine, await connectionManager._connect({ ...config, ...primary }))
}

function isInMemory(sequelize: SequelizeInstance): boolean {
  const { storage, host } = (sequelize as { options?: object }).options as { storage?: unknown; host?: unknown }
  return (storage ?? host ?? ':memory:') === ':memory:'
}
