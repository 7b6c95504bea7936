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
import { dedicateKnex } from './knex-connection.ts'
import { DEFAULT_SHAPE, toResult } from './mysql-result.ts'

interface Raw {
  readonly client: KnexClient
}

interface KnexClient {
  readonly dialect?: unknown
  readonly config?: object
  raw(sql: string, bindings: readonly unknown[]): RawQuery
}

interface RawQuery extends PromiseLike<unknown> {
  options(options: object): unknown
  toQuery(): string
  toSQL(): { toNative(): { sql: string } }
}

/** A Knex.Transaction. */
export interface KnexTransaction extends Raw {
  isCompleted(): boolean
}

/** A Knex for PostgreSQL, MySQL, MariaDB or SQLite. */
export interface KnexDatabase extends Raw {
  raw(sql: string): unknown
  transaction(use: (tx: KnexTransaction) => Promise<void>): Promise<unknown>
}

const engines: Record<string, SqlEngine> = { postgresql: 'postgres', mysql: 'mysql', sqlite3: 'sqlite' }

/**
 * PostgreSQL, MySQL, MariaDB or SQLite through Knex. Guards take its transactions. On SQLite, set a busy_timeout of a few
 * milliseconds in `pool.afterCreate`: rowlock waits for the file itself, the driver would block the event loop for seconds.
 */
export function fromKnex(knex: KnexDatabase, options: SessionOptions = {}): SqlAdapter<KnexTransaction> {
  if (typeof knex?.raw !== 'function' || typeof knex.transaction !== 'function' || isTransaction(knex)) {
    throw new LockError('INVALID_ARGUMENT', 'fromKnex takes a Knex instance that is not a transaction')
  }
  const engine = engines[String(knex.client?.dialect)]
  if (engine === undefined) {
    throw new LockError(
      'INVALID_ARGUMENT',
      `fromKnex knows no such dialect: ${knex.client?.dialect}; use pg, mysql2 or better-sqlite3`,
    )
  }
  const dedicate = options.sessions?.dedicate ?? (engine === 'sqlite' ? undefined : () => dedicateKnex(engine, knex))
  return asAdapter({
    engine,
    single: engine === 'sqlite',
    transactionOf: (tx) => tx,
    query: (statement) => send(engine, knex, statement),
    async queryIn(tx, statement) {
      if (!isTransaction(tx)) {
        throw new LockError(
          'INVALID_ARGUMENT',
          'pass the transaction that Knex gave to your callback, not the Knex instance',
        )
      }
      if (tx.isCompleted()) throw new LockError('INVALID_ARGUMENT', 'this transaction of Knex has ended already')
      return send(engine, tx, statement)
    },
    async reserve<T>(use: (connection: Connection) => Promise<T>) {
      let result: T
      await knex.transaction(async (tx) => {
        result = await use(connectionIn((statement) => send(engine, tx, statement)))
      })
      return result!
    },
    ...(dedicate && { dedicate }),
  })
}

function isTransaction(knex: unknown): knex is KnexTransaction {
  return (knex as { isTransaction?: unknown } | null | undefined)?.isTransaction === true
}

async function send(engine: SqlEngine, knex: Raw, statement: Statement): Promise<Result> {
  const { text, values } = engine === 'postgres' ? withQuestionMarks(statement) : statement
  const query = withoutHooks(knex.client).raw(text, values)
  if (engine === 'mysql' && !statement.callers) query.options(DEFAULT_SHAPE)
  let answer: unknown
  try {
    answer = await query
  } catch (error) {
    throw withoutStatement(error, query)
  }
  if (engine === 'mysql') return toResult(answer as [unknown, unknown])
  const rows = engine === 'postgres' ? (answer as { rows: unknown }).rows : answer
  return { rows: Array.isArray(rows) ? rows : [] }
}

/** The same client, on the same connections, but what comes back is not for the application's `postProcessResponse`. */
function withoutHooks(client: KnexClient): KnexClient {
  const config = { ...client.config, postProcessResponse: undefined }
  return Object.create(client, { config: { value: config } }) as KnexClient
}

/** Knex puts the whole statement, and on some engines its values, before the driver's message. */
function withoutStatement(error: unknown, query: RawQuery): unknown {
  if (error instanceof Error) {
    const prefixes = [query.toQuery(), query.toSQL().toNative().sql].map((sql) => `${sql} - `)
    const prefix = prefixes.find((each) => error.message.startsWith(each))
    if (prefix !== undefined) error.message = error.message.slice(prefix.length)
  }
  return error
}

/** Knex numbers placeholders itself, and takes every other question mark for one unless it is escaped. */
function withQuestionMarks({ text, values }: Statement): Statement {
  const bindings: unknown[] = []
  const replaced = text.replace(/\?|\$(\d+)/g, (match, index?: string) => {
    if (index === undefined) return '\\?'
    if (values.length === 0) return match
    bindings.push(values[Number(index) - 1])
    return '?'
  })
  return { text: replaced, values: bindings }
}
