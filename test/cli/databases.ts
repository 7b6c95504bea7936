import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inject } from 'vitest'
import type { SqlEngine } from '../../src/adapters/adapter.ts'
import { migrations } from '../../src/engines/migrations.ts'
import { type Connected, connectors } from '../adapters.ts'
import { createDatabase } from '../connect.ts'

/** A kind of database, as people tell the command line of it. */
export interface DatabaseKind {
  readonly name: string
  /** For `--engine`. */
  readonly engine: 'postgres' | 'mysql' | 'mariadb' | 'sqlite'
  /** The names of rowlock's migrations for it. */
  readonly migrations: readonly string[]
  /** A new, empty one. */
  create(): Promise<EmptyDatabase>
}

export interface EmptyDatabase {
  /** For `--database-url`. */
  readonly url: string
  /** A connection as rowlock's user has it, for whom each statement is sent by itself. */
  readonly connected: Connected
  /** The tables that are there, in alphabetical order; those outside of the default schema with their schema. */
  tables(): Promise<string[]>
  /** Runs a file of statements, as psql and the like do. */
  runScript(script: string): Promise<unknown>
  drop(): Promise<void>
}

const tablesOf = {
  postgres: `select case schemaname when 'public' then tablename else schemaname || '.' || tablename end as name
             from pg_tables where schemaname not in ('pg_catalog', 'information_schema')`,
  mysql: 'select table_name as name from information_schema.tables where table_schema = database()',
  sqlite: `select name from sqlite_master where type = 'table'`,
}

const onServers = inject('servers').map(
  (server): DatabaseKind => ({
    name: server.name,
    engine: server.flavour,
    migrations: migrationNames(server.engine),
    async create() {
      const { url, drop } = await createDatabase(server)
      const connector = server.engine === 'postgres' ? connectors.pg : connectors.mysql2
      const severalAtOnce = server.engine === 'postgres' ? url : `${url}?multipleStatements=true`
      return open(url, server.engine, connector(url), connector(severalAtOnce), drop)
    },
  }),
)

const sqlite: DatabaseKind = {
  name: 'sqlite',
  engine: 'sqlite',
  migrations: migrationNames('sqlite'),
  async create() {
    const folder = await mkdtemp(join(tmpdir(), 'rowlock-cli-'))
    const path = join(folder, 'locks.sqlite')
    const { default: Database } = await import('better-sqlite3')
    const database = new Database(path)
    const scripts = {
      sql: async (script: string) => void database.exec(script),
      close: async () => void database.close(),
    }
    const connected = await connectors['better-sqlite3'](path)
    return open(`sqlite:${path}`, 'sqlite', connected, scripts, () => rm(folder, { recursive: true }))
  },
}

function migrationNames(engine: SqlEngine): string[] {
  return migrations(engine, {}).map(({ name }) => name)
}

export const databaseKinds: DatabaseKind[] = [...onServers, sqlite]

function open(
  url: string,
  engine: keyof typeof tablesOf,
  connected: Connected,
  scripts: { sql(script: string): Promise<unknown>; close(): Promise<void> },
  drop: () => Promise<void>,
): EmptyDatabase {
  return {
    url,
    connected,
    tables: async () => (await connected.sql(tablesOf[engine])).map(({ name }) => String(name)).sort(),
    runScript: (script) => scripts.sql(script),
    async drop() {
      await connected.close()
      await scripts.close()
      await drop()
    },
  }
}
