import { basename, join } from 'node:path'
import type { Migration } from '../engines/migrations.ts'

/** A migration on its way into a file. */
export interface Part {
  readonly migration: Migration
  /** What has to run before the first migration; empty for the others. */
  readonly preparation: readonly string[]
  /** What orders it among the other migrations of the tool; empty where the tool needs no such number. */
  readonly number: string
}

export interface Destination {
  readonly engine: 'postgres' | 'mysql' | 'mariadb' | 'sqlite'
  /** The directory in which the tool looks for migrations. */
  readonly out: string
  readonly schema?: string | undefined
  readonly tablePrefix?: string | undefined
}

/** How a tool that owns a schema wants its migrations. */
interface Format {
  /** How the tool numbers migrations. `first` is for a directory that has none yet. */
  readonly numbering?: { readonly pattern: RegExp; readonly first: string }
  /** The path of a migration within the directory. */
  path(part: Pick<Part, 'migration' | 'number'>): string
  content(part: Part): string
  /** For people: what to do with these files. */
  next(paths: readonly string[], destination: Destination): string
}

export type FormatName = 'sql' | 'kysely' | 'knex' | 'prisma' | 'drizzle' | 'typeorm'

/** 2025-01-01 00:00:01, in the manners of the tools: before any migration that is yet to be written. */
const TIMESTAMP = '20250101000001'
const MILLISECONDS = '1735689601000'

export const formats: Record<FormatName, Format> = {
  sql: {
    path: ({ migration }) => `rowlock_${migration.name}.sql`,
    content: asScript,
    next: (paths, { engine }) => `Next, in this order, with your tool or by hand:
${indent(paths.map(shellCommands[engine]))}`,
  },

  kysely: {
    // Kysely refuses a name that comes before one it has executed, whatever the style of the numbers.
    numbering: { pattern: /^(\d+)_/, first: TIMESTAMP },
    path: ({ number, migration }) => `${number}_rowlock_${migration.name}.ts`,
    content: (part) => `import { type Kysely, sql } from 'kysely'

export async function up(db: Kysely<unknown>): Promise<void> {
${indent(forward(part).map((text) => `await sql${template(text, 2)}.execute(db)`))}
}

export async function down(db: Kysely<unknown>): Promise<void> {
${indent(part.migration.undo.map((text) => `await sql${template(text, 2)}.execute(db)`))}
}
`,
    next: () => `Next: run your Migrator, or
  npx kysely migrate:latest
Kysely wants new names to sort after all that it has executed: rename the files if they do not.`,
  },

  knex: {
    numbering: { pattern: /^(\d{14})_/, first: TIMESTAMP },
    // Knex loads .cjs in every project; .js would be CommonJS here and ESM there.
    path: ({ number, migration }) => `${number}_rowlock_${migration.name}.cjs`,
    content: (part) => `/** @param {import('knex').Knex} knex */
exports.up = async (knex) => {
${indent(forward(part).map((text) => `await knex.raw(${template(text, 2)})`))}
}

/** @param {import('knex').Knex} knex */
exports.down = async (knex) => {
${indent(part.migration.undo.map((text) => `await knex.raw(${template(text, 2)})`))}
}
`,
    next: () => `Next:
  npx knex migrate:latest`,
  },

  prisma: {
    numbering: { pattern: /^(\d{14})_/, first: TIMESTAMP },
    path: ({ number, migration }) => `${number}_rowlock_${migration.name}/migration.sql`,
    content: asScript,
    next: (_, destination) => `Next:
  npx prisma migrate deploy
and, so that "prisma migrate dev" does not drop tables which are not in your schema, in prisma.config.ts:
  experimental: { externalTables: true },
  tables: { external: [${prismaTables(destination)}] },`,
  },

  drizzle: {
    path: ({ migration }) => `rowlock_${migration.name}.sql`,
    content: (part) => `${forward(part).join(';\n--> statement-breakpoint\n')};\n`,
    next: (paths, { tablePrefix = 'rowlock_' }) => `Next, for each file, in this order: make an empty migration that
drizzle-kit knows of, and put the file in its place.
${indent(
  paths.flatMap((path) => [
    `npx drizzle-kit generate --custom --name=${basename(path, '.sql')}`,
    `mv ${path} <the .sql file that it made>`,
  ]),
)}
And then:
  npx drizzle-kit migrate
If you use "drizzle-kit push", keep it from dropping tables that are not in your schema: tablesFilter: ['!${tablePrefix}*'].`,
  },

  typeorm: {
    numbering: { pattern: /^(\d{13})-/, first: MILLISECONDS },
    path: ({ number, migration }) => `${number}-rowlock-${migration.name.replaceAll('_', '-')}.ts`,
    content: (part) => `import type { MigrationInterface, QueryRunner } from 'typeorm'

export class ${className(part)} implements MigrationInterface {
  name = '${className(part)}'

  async up(queryRunner: QueryRunner): Promise<void> {
${indent(
  forward(part).map((text) => `await queryRunner.query(${template(text, 4)})`),
  4,
)}
  }

  async down(queryRunner: QueryRunner): Promise<void> {
${indent(
  part.migration.undo.map((text) => `await queryRunner.query(${template(text, 4)})`),
  4,
)}
  }
}
`,
    next: (_, { out }) => `Next: have '${join(out, '*.ts')}' in the migrations of your data source, and
  npx typeorm migration:run -d path/to/data-source`,
  },
}

function forward({ preparation, migration }: Part): string[] {
  return [...preparation, ...migration.statements]
}

/** SQL as a person would run it, with the comments of migrations/. */
function asScript({ preparation, migration }: Part): string {
  const before = preparation.map((text) => `${text};\n`).join('')
  return `-- rowlock ${migration.name}\n${before}\n${migration.source.trim()}\n\n${migration.statements.at(-1)};\n`
}

/** A template literal, within code that is indented so far. */
function template(text: string, indentation: number): string {
  return `\`${text.replace(/[\\`]|\$\{/g, '\\$&').replaceAll('\n', `\n${' '.repeat(indentation)}`)}\``
}

/** 0001_locks: Rowlock0001Locks and a timestamp, by which TypeORM orders. */
function className({ migration, number }: Part): string {
  return `rowlock_${migration.name}`.replace(/(?:^|_)(\w)/g, (_, first: string) => first.toUpperCase()) + number
}

const shellCommands: Record<Destination['engine'], (path: string) => string> = {
  postgres: (path) => `psql "$DATABASE_URL" --single-transaction -v ON_ERROR_STOP=1 -f ${path}`,
  mysql: (path) => `mysql your_database < ${path}`,
  mariadb: (path) => `mariadb your_database < ${path}`,
  sqlite: (path) => `sqlite3 -bail your.sqlite < ${path}`,
}

function prismaTables({ engine, schema = 'public', tablePrefix = 'rowlock_' }: Destination): string {
  const place = engine === 'postgres' ? `${schema}.` : ''
  const others = { postgres: ['slots', 'gates'], mysql: ['slots', 'gates'], mariadb: ['slots', 'gates'], sqlite: [] }[
    engine
  ]
  const tables = ['locks', ...others, 'waits', 'marks', 'migrations']
  return tables.map((table) => `'${place}${tablePrefix}${table}'`).join(', ')
}

function indent(lines: readonly string[], by = 2): string {
  return lines.map((line) => `${' '.repeat(by)}${line}`).join('\n')
}
