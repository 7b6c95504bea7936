import { LockError } from '../base/errors.ts'
import {
  asAdapter,
  noOwnConnection,
  type Result,
  type SessionOptions,
  type SqlAdapter,
  type SqlEngine,
  type Statement,
} from './adapter.ts'
import { toResult } from './mysql-result.ts'
import { dedicateMysql2 } from './mysql2-connection.ts'
import { dedicatePg } from './pg-connection.ts'
import { type SqliteHandle, synchronousSqlite } from './sqlite.ts'

/** A QueryRunner of TypeORM. */
export interface TypeormQueryRunner {
  readonly isTransactionActive: boolean
  readonly isReleased: boolean
  query(
    text: string,
    values: unknown[],
    structured: true,
  ): Promise<{ readonly raw: unknown; readonly records: unknown }>
  release(): Promise<void>
}

/** The EntityManager of a transaction, or the QueryRunner that has begun one. */
export type TypeormTransaction = TypeormQueryRunner | { readonly queryRunner?: TypeormQueryRunner | undefined }

/** A DataSource for PostgreSQL, MySQL, MariaDB or better-sqlite3. */
export interface TypeormDataSource {
  readonly options: { readonly type: string }
  readonly driver: object
  createQueryRunner(mode: 'master'): TypeormQueryRunner
}

/** TypeORM's driver for better-sqlite3 has one connection: this one, once the DataSource is initialized. */
interface BetterSqlite3Driver {
  readonly databaseConnection?: SqliteHandle & { readonly inTransaction: boolean }
}

const engines: Record<string, SqlEngine> = {
  postgres: 'postgres',
  mysql: 'mysql',
  mariadb: 'mysql',
  'better-sqlite3': 'sqlite',
}

/** PostgreSQL, MySQL, MariaDB or SQLite through TypeORM. Guards take the EntityManager that a transaction was given. */
export function fromTypeorm(
  dataSource: TypeormDataSource,
  options: SessionOptions = {},
): SqlAdapter<TypeormTransaction> {
  if (typeof dataSource?.createQueryRunner !== 'function') {
    throw new LockError('INVALID_ARGUMENT', 'fromTypeorm takes a DataSource')
  }
  const engine = engines[dataSource.options.type]
  if (engine === undefined) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `fromTypeorm knows postgres, mysql, mariadb and better-sqlite3, and not ${dataSource.options.type}`,
    )
  }
  if (engine === 'sqlite') return onBetterSqlite3(dataSource)
  const dedicate =
    options.sessions?.dedicate ??
    (async () => {
      const { master, pool } = dataSource.driver as { master?: object; pool?: object }
      // With replication on MySQL there is a cluster of pools, which opens none beside it.
      const primary = engine === 'postgres' ? master : pool
      if (primary === undefined) throw noOwnConnection('TypeORM')
      return engine === 'postgres' ? dedicatePg(primary) : dedicateMysql2(primary)
    })
  const reserve = async <T>(use: (runner: TypeormQueryRunner) => Promise<T>) => {
    const runner = dataSource.createQueryRunner('master')
    try {
      return await use(runner)
    } finally {
      await runner.release()
    }
  }
  return asAdapter({
    engine,
    query: (statement) => reserve((runner) => send(engine, runner, statement)),
    queryIn: async (tx, statement) => send(engine, openRunner(tx), statement),
    reserve: (use) => reserve((runner) => use({ query: (statement) => send(engine, runner, statement) })),
    dedicate,
  })
}

/** Past TypeORM, whose calls are asynchronous: a transaction could begin between the look for one and the statement. */
function onBetterSqlite3(dataSource: TypeormDataSource): SqlAdapter<TypeormTransaction> {
  let current: { readonly database: SqliteHandle; readonly adapter: SqlAdapter<SqliteHandle> } | undefined
  // Another one after the DataSource was destroyed and initialized again.
  const open = () => {
    const { databaseConnection } = dataSource.driver as BetterSqlite3Driver
    if (databaseConnection === undefined) throw new LockError('INVALID_ARGUMENT', 'initialize the DataSource first')
    if (current?.database !== databaseConnection) {
      const adapter = synchronousSqlite<SqliteHandle>(databaseConnection, () => databaseConnection.inTransaction)
      current = { database: databaseConnection, adapter }
    }
    return current
  }
  return asAdapter({
    engine: 'sqlite',
    synchronous: true,
    single: true,
    query: async (statement) => open().adapter.query(statement),
    queryIn(tx, statement) {
      openRunner(tx)
      const { database, adapter } = open()
      return adapter.queryIn(database, statement)
    },
    reserve: async (use) => open().adapter.reserve(use),
  })
}

function openRunner(tx: TypeormTransaction): TypeormQueryRunner {
  const { queryRunner } = (tx ?? {}) as { queryRunner?: TypeormQueryRunner }
  const runner = queryRunner ?? (tx as TypeormQueryRunner | null)
  if (runner?.isTransactionActive !== true || runner.isReleased) {
    throw new LockError(
      'INVALID_ARGUMENT',
      'pass the EntityManager that TypeORM gave to your transaction, or the QueryRunner that began it, while it is open; not the DataSource',
    )
  }
  return runner
}

async function send(engine: SqlEngine, runner: TypeormQueryRunner, { text, values }: Statement): Promise<Result> {
  try {
    const { raw, records } = await runner.query(text, [...values], true)
    if (engine === 'mysql') return toResult([raw, undefined])
    return { rows: Array.isArray(records) ? records : [] }
  } catch (error) {
    throw (error as { driverError?: unknown }).driverError ?? error
  }
}
