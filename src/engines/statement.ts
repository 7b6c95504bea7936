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
import type { SqlEngine, Statement } from '../adapters/adapter.ts'

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
