import { readFileSync } from 'node:fs'
import { afterEach, beforeEach, describe, expect, inject, it, vi } from 'vitest'
import { connect, createDatabase, query, type TestDatabase } from './connect.ts'
import { wantedServers } from './servers/index.ts'
import { startProxy, type TcpProxy } from './tcp-proxy.ts'

const versions = {
  postgres18: /^PostgreSQL 18\./,
  postgres15: /^PostgreSQL 15\./,
  mysql: /^9\.(?!.*MariaDB)/,
  mariadb: /^10\.11\..*MariaDB/,
}

it('provides every server that is not excluded', () => {
  expect(inject('servers').map((server) => server.name)).toEqual(wantedServers())
})

describe.each(inject('servers'))('the server $name', (server) => {
  let database: TestDatabase

  beforeEach(async () => {
    database = await createDatabase(server)
  })

  afterEach(async () => {
    await database.drop()
  })

  it('answers with the version it is named for', async () => {
    const [row] = await query(server.url, 'select version() as version')
    expect(row?.version).toMatch(versions[server.name])
  })

  it('commits durably, as in production', async () => {
    const setting = server.engine === 'postgres' ? 'show fsync' : 'select @@innodb_flush_log_at_trx_commit as fsync'
    const [row] = await query(server.url, setting)
    expect(String(row?.fsync)).toMatch(/^(on|1)$/)
  })

  it.runIf(server.logFile)('writes a log that tests can read', () => {
    expect(readFileSync(server.logFile ?? '', 'utf8')).toContain('ready')
  })

  it.runIf(server.pid)('runs as the process it names', () => {
    expect(process.kill(server.pid ?? 0, 0)).toBe(true)
  })

  it('has databases that tests create, and drop while they are in use', async () => {
    const user = await connect(database.url)
    await user.query('create table note (id int)')
    await user.query('begin')
    await user.query('select * from note')
    await database.drop()
    await expect(connect(database.url)).rejects.toThrow(/does not exist|Unknown database/)
    await user.close().catch(() => {})
  })

  describe('behind a proxy', () => {
    let proxy: TcpProxy
    let url: string

    beforeEach(async () => {
      proxy = await startProxy(server.url)
      url = proxy.through(database.url)
      await query(database.url, 'create table note (id int)')
    })

    afterEach(async () => {
      await proxy.close()
    })

    const notes = () => query(database.url, 'select id from note order by id')

    it('is used as without', async () => {
      const connection = await connect(url)
      expect(proxy.connections).toBe(1)
      await connection.query('insert into note values (1)')
      expect(await connection.query('select id from note')).toEqual([{ id: 1 }])
      await connection.close()
      await vi.waitUntil(() => proxy.connections === 0)
    })

    it('has done what a cut reply would have told', async () => {
      const connection = await connect(url)
      proxy.cutReplies()
      await expect(connection.query('insert into note values (1)')).rejects.toThrow()
      expect(proxy.cuts).toBe(1)
      expect(await notes()).toEqual([{ id: 1 }])
      await expect(connect(url)).rejects.toThrow()
      proxy.restore()
      expect(await query(url, 'select id from note')).toEqual([{ id: 1 }])
    })

    it('loses just the reply to the request that was picked', async () => {
      proxy.cutReplies({ times: 1, after: (request) => request.includes('commit') })
      const connection = await connect(url)
      await connection.query('begin')
      await connection.query('insert into note values (1)')
      await expect(connection.query('commit')).rejects.toThrow()
      expect(await query(url, 'select id from note')).toEqual([{ id: 1 }])
      await query(url, 'commit')
      expect(proxy.cuts).toBe(1)
    })

    it('receives what went into a blackhole only after it', async () => {
      const connection = await connect(url)
      proxy.blackhole('toServer')
      const inserted = connection.query('insert into note values (1)')
      expect(await notes()).toEqual([])
      proxy.restore()
      await inserted
      expect(await notes()).toEqual([{ id: 1 }])
      await connection.close()
    })

    it('does, unseen, what it was asked for while its replies go into a blackhole', async () => {
      const connection = await connect(url)
      proxy.blackhole('toClient')
      let replied = false
      const inserted = connection.query('insert into note values (1)').then(() => {
        replied = true
      })
      await vi.waitUntil(async () => (await notes()).length === 1)
      expect(replied).toBe(false)
      proxy.restore()
      await inserted
      await connection.close()
    })

    it('keeps the session of a client that vanished into a blackhole', async () => {
      const connection = await connect(url)
      await connection.query('begin')
      await connection.query('insert into note values (1)')
      await connection.query('select 1')
      proxy.blackhole()
      const ended = connection.close().catch(() => {})
      const sessions =
        server.engine === 'postgres'
          ? `select 1 from pg_stat_activity where state = 'idle in transaction' and datname = current_database()`
          : `select 1 from information_schema.innodb_trx t join information_schema.processlist p on p.id = t.trx_mysql_thread_id
              where p.db = database()`
      expect(await query(database.url, sessions)).toHaveLength(1)
      proxy.restore()
      await ended
      await vi.waitUntil(async () => (await query(database.url, sessions)).length === 0)
      expect(await notes()).toEqual([])
    })

    it('answers late by the delay of both directions', async () => {
      const connection = await connect(url)
      proxy.delay({ toServer: 60, toClient: 40 })
      const start = performance.now()
      await connection.query('select 1')
      expect(performance.now() - start).toBeGreaterThanOrEqual(100)
      await connection.close()
    })

    it('loses its clients when they are disconnected', async () => {
      const connection = await connect(url)
      proxy.disconnect()
      await expect(connection.query('select 1')).rejects.toThrow()
      await connection.close().catch(() => {})
    })
  })
})
