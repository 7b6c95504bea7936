import { randomBytes } from 'node:crypto'
import mysql from 'mysql2/promise'
import pg from 'pg'
import type { TestServer } from './servers/server.ts'

export type Row = Record<string, unknown>

export type TestConnection = {
  query(sql: string): Promise<Row[]>
  close(): Promise<void>
}

export type TestDatabase = {
  url: string
  /** Also ends the sessions that still use it. */
  drop(): Promise<void>
}

/** A connection of its own to a `postgres:` or `mysql:` URL, that has answered. */
export async function connect(url: string): Promise<TestConnection> {
  return new URL(url).protocol === 'mysql:' ? await connectMysql(url) : await connectPostgres(url)
}

/** The rows of one statement on a connection of its own. */
export async function query(url: string, sql: string): Promise<Row[]> {
  const connection = await connect(url)
  try {
    return await connection.query(sql)
  } finally {
    await connection.close()
  }
}

/** A new, empty database with a random name. */
export async function createDatabase(server: Pick<TestServer, 'engine' | 'url'>): Promise<TestDatabase> {
  const name = `rowlock_${randomBytes(8).toString('hex')}`
  await query(server.url, `create database ${name}`)
  const url = new URL(server.url)
  url.pathname = `/${name}`
  return {
    url: url.href,
    drop: () => (server.engine === 'postgres' ? dropPostgres(server.url, name) : dropMysql(server.url, name)),
  }
}

async function dropPostgres(adminUrl: string, name: string): Promise<void> {
  await query(adminUrl, `drop database if exists ${name} with (force)`)
}

async function dropMysql(adminUrl: string, name: string): Promise<void> {
  const admin = await connect(adminUrl)
  try {
    // A session with an open transaction holds metadata locks, behind which DROP DATABASE would wait.
    const sessions = await admin.query(`select id from information_schema.processlist where db = '${name}'`)
    for (const session of sessions) await killMysqlSession(admin, Number(session.id ?? session.ID))
    await admin.query(`drop database if exists ${name}`)
  } finally {
    await admin.close()
  }
}

async function killMysqlSession(admin: TestConnection, id: number): Promise<void> {
  try {
    await admin.query(`kill ${id}`)
  } catch (error) {
    const endedMeanwhile = (error as { code?: string }).code === 'ER_NO_SUCH_THREAD'
    if (!endedMeanwhile) throw error
  }
}

async function connectPostgres(url: string): Promise<TestConnection> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 5000 })
  // Without a listener, a connection that the server ends between two queries would end the process.
  client.on('error', () => {})
  await client.connect()
  return {
    query: async (sql) => (await client.query(sql)).rows,
    close: () => client.end(),
  }
}

async function connectMysql(url: string): Promise<TestConnection> {
  const client = await mysql.createConnection({ uri: url, connectTimeout: 5000 })
  client.on('error', () => {})
  return {
    query: async (sql) => {
      const [rows] = await client.query(sql)
      return Array.isArray(rows) ? (rows as Row[]) : []
    },
    close: () => client.end(),
  }
}
