import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { createLocks, type Locks } from '../../src/index.ts'
import { type Connected, connectors } from '../adapters.ts'
import { connect, createDatabase, type TestConnection, type TestDatabase } from '../connect.ts'
import { freshName } from '../engines.ts'
import { storeOn } from '../store/store-on.ts'

/** What an application does all day. */
const NEEDED = ['select', 'insert', 'update'] as const
/** On what comes and goes. */
const ALL = [...NEEDED, 'delete'] as const

describe.each(inject('servers'))('the least privileges on $name', (server) => {
  const isPostgres = server.engine === 'postgres'
  const naming = isPostgres ? { schema: 'app' } : {}
  const table = (name: string) => `${isPostgres ? 'app.' : ''}rowlock_${name}`

  let database: TestDatabase
  let owner: TestConnection
  /** The application. */
  let role: string
  let connected: Connected
  let locks: Locks<unknown>

  /** Tables of which purge deletes rows. */
  const kept = ['locks', 'slots']
  const connector = isPostgres ? connectors.pg : connectors.mysql2
  const logins: string[] = []

  const grant = (privileges: string) => owner.query(`grant ${privileges} to ${role}`)
  const revoke = (privileges: string) => owner.query(`revoke ${privileges} from ${role}`)

  /** Somebody who may do this, and nothing else. */
  async function createLogin(privileges: readonly string[]): Promise<{ login: string; connection: Connected }> {
    const user = `rowlock_${randomBytes(6).toString('hex')}`
    const login = isPostgres ? user : `'${user}'@'%'`
    logins.push(login)
    await owner.query(
      isPostgres ? `create role ${login} login password 'secret'` : `create user ${login} identified by 'secret'`,
    )
    for (const each of privileges) await owner.query(`grant ${each} to ${login}`)
    const url = new URL(database.url)
    url.username = user
    url.password = 'secret'
    return { login, connection: connector(url.href) }
  }

  beforeAll(async () => {
    database = await createDatabase(server)
    owner = await connect(database.url)
    const migrating = connector(database.url)
    await createLocks(migrating.adapter, naming).migrate()
    await migrating.close()

    const usage = isPostgres ? ['usage on schema app'] : []
    const application = await createLogin([
      ...usage,
      ...[...kept, 'gates'].flatMap((name) => NEEDED.map((privilege) => `${privilege} on ${table(name)}`)),
      ...['waits', 'marks'].flatMap((name) => ALL.map((privilege) => `${privilege} on ${table(name)}`)),
      `select on ${table('migrations')}`,
    ])
    connected = application.connection
    role = application.login
    locks = createLocks(connected.adapter, naming)
  })

  afterAll(async () => {
    await locks.close()
    await connected.close()
    await owner.close()
    await database.drop()
    const admin = await connect(server.url)
    for (const login of logins) await admin.query(isPostgres ? `drop role ${login}` : `drop user ${login}`)
    await admin.close()
  })

  it('let an application do all that it does with locks', async () => {
    const name = freshName()
    const lease = await locks.acquire(name)
    expect(await locks.tryAcquire(name)).toBeNull()
    expect(await locks.inspect(name)).toMatchObject({ name })
    expect(await locks.list({ prefix: name })).toHaveLength(1)
    await lease.extend('60s')
    await connected.transaction((tx) => lease.guard(tx))
    expect(await connected.transaction((tx) => lease.guarded(tx, { text: 'select 1 as one', values: [] }))).toEqual([
      { one: 1 },
    ])
    expect(await (await locks.restore(JSON.parse(JSON.stringify(lease)))).release()).toBe(true)

    await connected.transaction((tx) => locks.within(tx).acquire(name))
    const pending = await connected.transaction((tx) => locks.within(tx).lease(name))
    const started = await pending.confirm()
    await connected.transaction((tx) => started.release(tx))

    await locks.acquire(name)
    expect(await locks.forceRelease(name)).toBe(true)
    expect(await locks.run(name, { takeover: 'session' }, () => 'ran')).toBe('ran')
  })

  it.each(NEEDED)('contain nothing that could be spared: %s', async (privilege) => {
    const name = freshName()
    await locks.run(name, {}, () => undefined)
    await revoke(`${privilege} on ${table('locks')}`)
    // An insert is for a name that is new, an update for one that is not.
    const attempt = locks.tryAcquire(privilege === 'insert' ? freshName() : name)
    await expect(attempt).rejects.toMatchObject({
      code: 'DATABASE',
      message: expect.stringMatching(/needs SELECT, INSERT and UPDATE on .*denied/),
    })
    await grant(`${privilege} on ${table('locks')}`)
    await locks.run(name, {}, () => undefined)
  })

  it.each(ALL)('contain nothing that could be spared of the table of waits: %s', async (privilege) => {
    const store = storeOn(connected.adapter, naming)
    const publish = async () => {
      await store.publishWaits('process', 'waits')
      await store.publishWaits('process', null)
    }
    await revoke(`${privilege} on ${table('waits')}`)
    await expect(publish()).rejects.toMatchObject({
      code: 'DATABASE',
      message: expect.stringMatching(/waits and marks beside it, DELETE on the last two of them .*denied/),
    })
    await grant(`${privilege} on ${table('waits')}`)
    await publish()
  })

  it.each(ALL)('contain nothing that could be spared of the table of marks: %s', async (privilege) => {
    const store = storeOn(connected.adapter, naming)
    const use = async () => {
      const mark = { kind: 'job', name: freshName(), part: '', value: null, token: 1n, keepMs: null } as const
      await store.writeMark(mark)
      await store.writeMark(mark)
      await store.readMarks('job', [mark.name])
      await store.deleteMark(mark)
    }
    await use()
    await revoke(`${privilege} on ${table('marks')}`)
    await expect(use()).rejects.toMatchObject({ code: 'DATABASE', message: expect.stringMatching(/marks .*denied/) })
    await grant(`${privilege} on ${table('marks')}`)
    await use()
  })

  it('let an application do its jobs', async () => {
    const key = freshName()
    expect(await locks.once(key, {}, () => 1)).toEqual({ ran: true, value: 1 })
    expect(await connected.transaction((tx) => locks.within(tx).once(key, {}, () => 2))).toMatchObject({ value: 1 })
    const lease = await locks.acquire(key, { metadata: 'mine' })
    await lease.checkpoint(1)
    await connected.transaction((tx) => lease.checkpoint(2, tx))
    await lease.release()
    const next = await locks.acquire(key)
    expect(next.payload).toBe(2)
    await next.release()
  })

  it.runIf(isPostgres)('contain nothing that could be spared: usage on the schema', async () => {
    await revoke('usage on schema app')
    await expect(locks.tryAcquire(freshName())).rejects.toMatchObject({ code: 'DATABASE' })
    await grant('usage on schema app')
  })

  it('are delete besides, for purge alone', async () => {
    await expect(locks.purge({ idleFor: 0 })).rejects.toMatchObject({ code: 'DATABASE' })
    for (const name of kept) await grant(`delete on ${table(name)}`)
    expect(await locks.purge({ idleFor: 0 })).toBeGreaterThan(0)
    for (const name of kept) await revoke(`delete on ${table(name)}`)
  })

  it('are these to migrate: to create tables, and to read and fill the one that remembers', async () => {
    const { connection } = await createLogin(
      isPostgres
        ? ['usage, create on schema app']
        : [`create, select, insert on \`${new URL(database.url).pathname.slice(1)}\`.*`],
    )
    const migrating = createLocks(connection.adapter, { ...naming, tablePrefix: 'other_' })
    expect(await migrating.migrate()).not.toEqual([])
    expect(await migrating.migrate()).toEqual([])
    await connection.close()
  })

  it('may do without that on the table of migrations, but for migrate(), and a warning says so', async () => {
    await revoke(`select on ${table('migrations')}`)
    const without = createLocks(connected.adapter, naming)
    const warnings: string[] = []
    without.on((event) => event.type === 'warning' && warnings.push(event.message))
    expect(await (await without.acquire(freshName())).release()).toBe(true)
    expect(warnings).toEqual([expect.stringContaining('grant this user SELECT')])
    await expect(without.migrate()).rejects.toMatchObject({ code: 'DATABASE' })
    await without.close()
    await grant(`select on ${table('migrations')}`)
    expect(await locks.migrate()).toEqual([])
  })
})
