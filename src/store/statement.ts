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
import type { Connection, Result, SqlAdapter, SqlEngine, Statement } from '../adapters/adapter.ts'
import { DatabaseError, isError, LockError } from '../errors.ts'
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

  readonly #own: Connection

  constructor(
    adapter: SqlAdapter<Tx>,
    explain: (error: unknown, inTransaction: boolean) => LockError,
    own: Connection = adapter,
  ) {
    this.#adapter = adapter
    this.#explain = explain
    this.#own = own
  }

  /** On the application's pool. */
  run(query: Statement): Promise<Result> {
    return this.#runOn(this.#adapter, query)
  }

  /** On rowlock's own connection: what keeps leases alive and waiters moving does not depend on the application's pool. */
  keep(query: Statement): Promise<Result> {
    return this.#runOn(this.#own, query)
  }

  async #runOn(connection: Connection, query: Statement): Promise<Result> {
    try {
      const result = await connection.query(query)
      if (result.inTransaction === true) throw mayNeverCommit()
      return result
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
  if (!isError(error) || error instanceof TypeError || error instanceof RangeError) return false
  const code = (error as { code?: unknown }).code
  return code === undefined || (typeof code === 'string' && /^(E[A-Z]+|PROTOCOL_\w+|CONNECT(ION)?_\w+)$/.test(code))
}

/** Drivers and ORMs whose pool had no connection to give in time: nothing was sent. pg and mysql2 tell by the message alone. */
const POOL_TIMEOUTS = {
  names: ['KnexTimeoutError', 'SequelizeConnectionAcquireTimeoutError'],
  codes: ['P2024', 'P2037', 'CONNECT_TIMEOUT', 'ER_GET_CONNECTION_TIMEOUT'],
  message: /^(timeout exceeded when trying to connect|Queue limit reached\.|No connections available\.)$/,
}

/** Whether an error, or one of its causes, says that the pool had no connection to give. */
export function isPoolTimeout(error: unknown): boolean {
  for (let each = error; isError(each); each = each.cause) {
    if (POOL_TIMEOUTS.names.includes(each.name) || POOL_TIMEOUTS.message.test(each.message)) return true
    if (POOL_TIMEOUTS.codes.includes(String((each as { code?: unknown }).code))) return true
  }
  return false
}

export function databaseError(
  failure: Exclude<DatabaseError['failure'], 'unavailable'>,
  error: unknown,
): DatabaseError {
  const advice = {
    conflict: 'the statement had no effect and may be repeated',
    connection: 'no answer from the database; whether the statement took effect is not known',
    other: 'the database refused the statement',
  }[failure]
  return new DatabaseError(failure, `${advice}: ${messageOf(error)}`, { cause: error })
}

/** The server takes no writes: for as long as it fails over, or until somebody sets it otherwise. */
export function readOnly(error: unknown): DatabaseError {
  return unavailable(
    'the database takes no writes here, and taking or releasing a lock is one. Either this server is read-only (a standby, or one that is failing over), or this session or transaction is: begin transactions READ WRITE, and set transaction_read_only (default_transaction_read_only) to off',
    error,
  )
}

/** Too many connections, a pool with none left, a disk or memory that is full. */
export function noRoom(error: unknown): DatabaseError {
  return unavailable('the database or the pool has no room at the moment, and nothing was changed', error)
}

/** The server was asked to end statements that take so long. */
export function cutShort(error: unknown): DatabaseError {
  return unavailable('the server ended the statement before it took effect, by a limit of its own or on request', error)
}

function unavailable(what: string, error: unknown): DatabaseError {
  return new DatabaseError('unavailable', `${what}: ${messageOf(error)}`, { cause: error })
}

/** Of adapters that run statements by themselves on connections that they do not see. */
function mayNeverCommit(): DatabaseError {
  return new DatabaseError(
    'connection',
    'the statement ran in a transaction that somebody left open on a connection of the pool, or where autocommit is off, and may never be committed. Find who gives connections back without COMMIT or ROLLBACK, or with SET autocommit = 0',
    { cause: undefined },
  )
}

export function missingRight(table: string, error: unknown): DatabaseError {
  return new DatabaseError(
    'other',
    `this user lacks a right: rowlock needs SELECT, INSERT and UPDATE on ${table} and on the table of gates beside it (purge also DELETE on the first), and USAGE on its schema; migrate needs CREATE: ${messageOf(error)}`,
    { cause: error },
  )
}

/** An AggregateError, as of a host name with several addresses, has a code but no message. */
function messageOf(error: unknown): string {
  if (!isError(error)) return String(error)
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
