import { createHash } from 'node:crypto'
import {
  DummyDriver,
  Kysely,
  MysqlAdapter,
  MysqlIntrospector,
  MysqlQueryCompiler,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  type RawBuilder,
  SqliteAdapter,
  SqliteIntrospector,
  SqliteQueryCompiler,
  sql,
} from 'kysely'
import type { Result, SqlAdapter, SqlEngine, Statement } from '../adapters/adapter.ts'
import { DatabaseError, LockError } from '../errors.ts'
import type { CallerQuery } from './store.ts'

const kyselys: Record<SqlEngine, Kysely<unknown>> = {
  postgres: new Kysely({
    dialect: {
      createAdapter: () => new PostgresAdapter(),
      createDriver: () => new DummyDriver(),
      createIntrospector: (db) => new PostgresIntrospector(db),
      createQueryCompiler: () => new PostgresQueryCompiler(),
    },
  }),
  mysql: new Kysely({
    dialect: {
      createAdapter: () => new MysqlAdapter(),
      createDriver: () => new DummyDriver(),
      createIntrospector: (db) => new MysqlIntrospector(db),
      createQueryCompiler: () => new MysqlQueryCompiler(),
    },
  }),
  sqlite: new Kysely({
    dialect: {
      createAdapter: () => new SqliteAdapter(),
      createDriver: () => new DummyDriver(),
      createIntrospector: (db) => new SqliteIntrospector(db),
      createQueryCompiler: () => new SqliteQueryCompiler(),
    },
  }),
}

/** Stands for a value while the text is compiled. */
class Parameter {
  constructor(readonly name: string) {}
}

/** Compiles one statement for good: text that never changes, and a function that puts the values in. */
export function statement<Values extends object>(
  engine: SqlEngine,
  build: (value: { [Name in keyof Values]-?: RawBuilder<Values[Name]> }) => RawBuilder<unknown>,
): (values: Values) => Statement {
  const parameters = new Proxy({} as { [Name in keyof Values]-?: RawBuilder<Values[Name]> }, {
    get: (_, name) => sql.val(new Parameter(String(name))),
  })
  const { text, values: compiled } = withEachOnce(engine, compile(engine, build(parameters)))
  const name = statementName(text)
  return (values) => ({
    name,
    text,
    values: compiled.map((value) => (value instanceof Parameter ? values[value.name as keyof Values] : value)),
  })
}

/** Where placeholders have numbers, a value that is used in several places is sent once. */
function withEachOnce(engine: SqlEngine, { text, values }: Statement): Statement {
  if (engine !== 'postgres') return { text, values }
  const once: unknown[] = []
  const numbers = values.map((value) => {
    const before = once.findIndex((other) => isSameParameter(value, other))
    return before === -1 ? once.push(value) : before + 1
  })
  return { text: text.replace(/\$(\d+)/g, (_, number: string) => `$${numbers[Number(number) - 1]}`), values: once }
}

function isSameParameter(one: unknown, other: unknown): boolean {
  return one instanceof Parameter && other instanceof Parameter && one.name === other.name
}

export function statementName(text: string): string {
  return `rowlock_${createHash('sha256').update(text).digest('hex').slice(0, 24)}`
}

/** Compiles a statement whose text depends on how many values it has. */
export function compile(engine: SqlEngine, query: RawBuilder<unknown>): Statement {
  const { sql: text, parameters } = query.compile(kyselys[engine])
  return { text, values: parameters }
}

/** Runs statements through an adapter and turns what the driver throws into a LockError. */
export class Runner<Tx> {
  readonly #adapter: SqlAdapter<Tx>
  readonly #explain: (error: unknown, inTransaction: boolean) => LockError

  constructor(adapter: SqlAdapter<Tx>, explain: (error: unknown, inTransaction: boolean) => LockError) {
    this.#adapter = adapter
    this.#explain = explain
  }

  async run(query: Statement): Promise<Result> {
    try {
      return await this.#adapter.query(query)
    } catch (error) {
      throw this.#wrap(error, false)
    }
  }

  /** Synchronous if the driver is. */
  runIn<T>(tx: Tx, query: Statement, read: (result: Result) => T): T | Promise<T> {
    try {
      const result = this.#adapter.queryIn(tx, query)
      if (!(result instanceof Promise)) return read(result)
      return result.then(read, (error: unknown) => {
        throw this.#wrap(error, true)
      })
    } catch (error) {
      throw this.#wrap(error, true)
    }
  }

  #wrap(error: unknown, inTransaction: boolean): LockError {
    return error instanceof LockError ? error : this.#explain(error, inTransaction)
  }
}

export function notMigrated(table: string, cause: unknown): LockError {
  return new LockError(
    'NOT_MIGRATED',
    `the table ${table} is missing or out of date: call locks.migrate(), or run "npx rowlock migrate --database-url ..."`,
    { cause },
  )
}

/** What a driver throws when it has no word from the server: a plain Error, or one with a system error code. */
export function isConnectionFailure(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof TypeError || error instanceof RangeError) return false
  const code = (error as { code?: unknown }).code
  return code === undefined || (typeof code === 'string' && /^(E[A-Z]+|PROTOCOL_\w+|CONNECT(ION)?_\w+)$/.test(code))
}

export function databaseError(failure: DatabaseError['failure'], error: unknown): DatabaseError {
  const advice = {
    conflict: 'the statement had no effect and may be repeated',
    connection: 'no answer from the database; whether the statement took effect is not known',
    other: 'the database refused the statement',
  }[failure]
  return new DatabaseError(failure, `${advice}: ${messageOf(error)}`, { cause: error })
}

/** An AggregateError, as of a host name with several addresses, has a code but no message. */
function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.message || String((error as { code?: unknown }).code ?? error.name)
}

export function transactionAborted(error: unknown): LockError {
  return new LockError(
    'TRANSACTION_ABORTED',
    `the transaction cannot go on; roll it back and retry all of it: ${messageOf(error)}`,
    { cause: error },
  )
}

export function noTransaction(verb: string): LockError {
  return new LockError(
    'INVALID_ARGUMENT',
    `${verb} needs the handle of an open transaction: outside of one it would protect nothing. Begin one, and pass that handle`,
  )
}

/** Accepts Kysely builders and compiled queries, and `{ text, values }`. */
export type GuardedQuery =
  | CallerQuery
  | { readonly sql: string; readonly parameters: readonly unknown[] }
  | { compile(): { readonly sql: string; readonly parameters: readonly unknown[] } }

export function toCallerQuery(query: GuardedQuery): CallerQuery {
  if ('text' in query) return query
  const { sql: text, parameters: values } = 'compile' in query ? query.compile() : query
  return { text, values }
}
