import type { SqlEngine } from '../adapters/adapter.ts'
import { LockError } from '../base/errors.ts'
import { migrationFiles } from './migration-files.ts'

/** Where rowlock's tables live. */
export interface Naming {
  /** PostgreSQL schema. Default: the one that the connection's search_path leads to, looked up once. */
  readonly schema?: string | undefined
  /** Default: `rowlock_`. */
  readonly tablePrefix?: string | undefined
}

export interface Migration {
  readonly name: string
  /** As it stands in migrations/, with its comments, and with the tables named as the user chose. */
  readonly source: string
  /** In order, quoted for the engine, without a closing semicolon. The last one records the migration. */
  readonly statements: readonly string[]
  /** Takes the migration back: drops its tables with all that is in them. */
  readonly undo: readonly string[]
}

/** A table of ours, by the name it has in migrations/, quoted and placed as the user chose. */
export function tableName(engine: SqlEngine, table: string, naming: Naming): string {
  const { schema, tablePrefix = 'rowlock_' } = naming
  checkIdentifier('tablePrefix', tablePrefix)
  if (schema !== undefined) {
    checkIdentifier('schema', schema)
    if (engine !== 'postgres') {
      throw new LockError('INVALID_ARGUMENT', 'schema is an option for PostgreSQL; use tablePrefix on this engine')
    }
  }
  const name = quoted(engine, `${tablePrefix}${table}`)
  return schema === undefined ? name : `${quoted(engine, schema)}.${name}`
}

export function quoted(engine: SqlEngine, identifier: string): string {
  const quote = engine === 'mysql' ? '`' : '"'
  return `${quote}${identifier.replaceAll(quote, quote + quote)}${quote}`
}

/** All migrations of an engine, oldest first, each with the statement that records it. */
export function migrations(engine: SqlEngine, naming: Naming): Migration[] {
  const history = tableName(engine, 'migrations', naming)
  return migrationFiles(engine).map(({ name, text }, index) => {
    const named = (part: string) =>
      part.replace(/\browlock_(\w+)/g, (_, table: string) => tableName(engine, table, naming))
    // Names may hold whatever would part statements, so they come last.
    const parts = splitStatements(text)
    const forget = index === 0 ? `drop table ${history}` : `delete from ${history} where name = '${name}'`
    return {
      name,
      source: named(text),
      statements: [
        ...parts.map(named),
        `${engine === 'mysql' ? 'insert ignore' : 'insert'} into ${history} (name) values ('${name}')`,
      ],
      undo: [...parts.flatMap(undoStatement).reverse().map(named), forget],
    }
  })
}

/** Runs the migrations that are not in `done`, oldest first; answers their names. */
export async function applyPending(
  engine: SqlEngine,
  naming: Naming,
  done: ReadonlySet<unknown>,
  run: (text: string) => Promise<unknown>,
): Promise<string[]> {
  const pending = migrations(engine, naming).filter(({ name }) => !done.has(name))
  for (const { statements } of pending) for (const text of statements) await run(text)
  return pending.map(({ name }) => name)
}

/** Makes the table that remembers which migrations ran. */
export function historyStatement(engine: SqlEngine, naming: Naming): string {
  const type = engine === 'mysql' ? 'varchar(100)' : 'text'
  return `create table if not exists ${tableName(engine, 'migrations', naming)} (name ${type} not null primary key)`
}

/** What a tool that is not rowlock has to run before the first migration. */
export function preparationStatements(engine: SqlEngine, naming: Naming): string[] {
  const history = historyStatement(engine, naming)
  return naming.schema === undefined
    ? [history]
    : [`create schema if not exists ${quoted(engine, naming.schema)}`, history]
}

/** None for a row of the table of migrations, which goes with it. */
function undoStatement(statement: string): string[] {
  if (/^insert (ignore )?into rowlock_migrations\b/.test(statement)) return []

  const [, kind, thing] = /^create (table|function) (?:if not exists )?([^\s(]+)/.exec(statement) ?? []
  if (kind === undefined) throw new Error(`undoStatement does not know yet how to undo: ${statement}`)
  return [`drop ${kind} ${thing}`]
}

/** At semicolons that end a line, but for those in the body of a function, which stands between two `$function$`. */
function splitStatements(text: string): string[] {
  const statements = ['']
  for (const [index, part] of text
    .replace(/--.*$/gm, '')
    .split(/(?=\$function\$)/)
    .entries()) {
    const isBody = index % 2 === 1
    const [first = '', ...others] = isBody ? [part] : part.split(/;\s*$/m)
    statements.push(`${statements.pop()}${first}`, ...others)
  }
  return statements.map((part) => part.replace(/\s+$/gm, '').trim()).filter((part) => part !== '')
}

/**
 * Quoted identifiers could hold anything; these characters pass through every driver, ORM and migration tool, in which others
 * (a question mark, a colon, a dollar sign) may stand for values. 40 bytes leave room for the names of tables and indexes.
 */
export function isIdentifier(value: unknown): value is string {
  return (
    typeof value === 'string' &&
    /^[\p{L}\p{M}\p{N}_](?:[\p{L}\p{M}\p{N}_ ."`-]*[\p{L}\p{M}\p{N}_."`-])?$/u.test(value) &&
    Buffer.byteLength(value) <= 40
  )
}

function checkIdentifier(what: string, identifier: string): void {
  if (isIdentifier(identifier)) return
  throw new LockError(
    'INVALID_ARGUMENT',
    `${what} must be 1 to 40 bytes of letters, digits, spaces and the characters _ - . " \`, beginning with a letter, a digit or an underscore, and not ending with a space, not ${JSON.stringify(identifier)}`,
  )
}
