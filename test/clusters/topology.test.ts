import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { SqlEngine, Statement } from '../../src/adapters/adapter.ts'
import { DatabaseError } from '../../src/base/errors.ts'
import { afterAllCommits, assess, readTopology, sessionRefusal, type Topology } from '../../src/engines/topology.ts'
import { connectors } from '../adapters.ts'

/** As a server with these settings would answer. */
function topologyOf(engine: SqlEngine, settings: Record<string, string>): Promise<Topology> {
  const rows =
    engine === 'mysql'
      ? Object.entries(settings).map(([name, value]) => ({ Variable_name: name, Value: value }))
      : [settings]
  return readTopology(engine, async () => ({ rows }))
}

const select: Statement = { text: 'select 1', values: [] }

describe('of MySQL and MariaDB', () => {
  const safe = { innodb_flush_log_at_trx_commit: '1', log_bin: 'ON', sync_binlog: '1' }

  it('one server with safe settings passes, and may have session takeover', async () => {
    const topology = await topologyOf('mysql', { ...safe, wsrep_on: 'OFF', wsrep_dirty_reads: 'OFF' })
    expect(topology.writers).toBe('one server')
    expect(assess(topology)).toEqual({ refusal: null, warnings: [] })
    expect(sessionRefusal(topology)).toBe(null)
    expect(afterAllCommits(topology, select)).toBe(select)
  })

  it.each([
    ['a group with one primary', 'ON', 'one server'],
    ['a group with many primaries', 'OFF', 'group'],
  ])('%s is told from others', async (_, mode, writers) => {
    expect((await topologyOf('mysql', { ...safe, group_replication_single_primary_mode: mode })).writers).toBe(writers)
  })

  it('commits that a crash can undo are a warning', async () => {
    const { refusal, warnings } = assess(
      await topologyOf('mysql', { innodb_flush_log_at_trx_commit: '2', log_bin: 'ON', sync_binlog: '0' }),
    )
    expect(refusal).toBe(null)
    expect(warnings.map((warning) => warning.split(' ')[0])).toEqual(['innodb_flush_log_at_trx_commit', 'sync_binlog'])
  })

  it('a binary log that is off needs no sync', async () => {
    expect(assess(await topologyOf('mysql', { ...safe, log_bin: 'OFF', sync_binlog: '0' })).warnings).toEqual([])
  })

  it('Galera needs no disk to keep a commit, and no session takeover, and dirty reads are refused', async () => {
    const topology = await topologyOf('mysql', { wsrep_on: 'ON', innodb_flush_log_at_trx_commit: '0' })
    expect(assess(topology)).toEqual({ refusal: null, warnings: [] })
    expect(sessionRefusal(topology)).toMatchObject({ code: 'UNSUPPORTED' })
    expect(afterAllCommits(topology, select).text).toBe('set statement wsrep_sync_wait = 7 for select 1')
    const dirty = await topologyOf('mysql', { wsrep_on: 'ON', wsrep_dirty_reads: 'ON' })
    expect(assess(dirty).refusal).toMatchObject({ code: 'UNSUPPORTED' })
  })
})

describe('of PostgreSQL', () => {
  const safe = { fsync: 'on', full_page_writes: 'on', default_transaction_read_only: 'off', in_recovery: 'false' }

  it('a primary and a standby pass, since a standby may be promoted', async () => {
    for (const in_recovery of ['false', 'true']) {
      const topology = await topologyOf('postgres', { ...safe, in_recovery })
      expect(assess(topology)).toEqual({ refusal: null, warnings: [] })
    }
  })

  it('sessions that cannot write are refused', async () => {
    const topology = await topologyOf('postgres', { ...safe, default_transaction_read_only: 'on' })
    expect(assess(topology).refusal).toMatchObject({ code: 'UNSUPPORTED' })
  })

  it('an engine that does not know the settings is refused by its version', async () => {
    const topology = await readTopology('postgres', async ({ text }) => {
      if (text === 'select version() as version') return { rows: [{ version: 'CockroachDB CCL v25.2.1' }] }
      throw new DatabaseError('other', 'unrecognized configuration parameter "fsync"', { cause: undefined })
    })
    expect(assess(topology).refusal).toMatchObject({ code: 'UNSUPPORTED' })
  })

  it('what a crash can destroy is a warning', async () => {
    const topology = await topologyOf('postgres', { ...safe, fsync: 'off', full_page_writes: 'off' })
    expect(assess(topology).warnings.map((warning) => warning.split(' ')[0])).toEqual(['fsync', 'full_page_writes'])
  })
})

describe('of SQLite', () => {
  it.each([
    ['full', 'wal', 0],
    ['normal', 'wal', 0],
    ['off', 'wal', 1],
    ['off', 'memory', 2],
  ])('synchronous = %s and journal_mode = %s are so many warnings: %i', async (synchronous, journal, warnings) => {
    const folder = await mkdtemp(join(tmpdir(), 'rowlock-topology-'))
    const file = await connectors['better-sqlite3'](join(folder, 'locks.sqlite'))
    try {
      await file.sql(`pragma journal_mode = ${journal}`)
      await file.sql(`pragma synchronous = ${synchronous}`)
      const topology = await readTopology('sqlite', async ({ text }) => ({ rows: await file.sql(text) }))
      expect(assess(topology).refusal).toBe(null)
      expect(assess(topology).warnings).toHaveLength(warnings)
    } finally {
      await file.close()
      await rm(folder, { recursive: true })
    }
  })

  it('a database in memory has nothing to lose', async () => {
    const topology = await topologyOf('sqlite', { synchronous: '0', journal_mode: 'memory', file: '' })
    expect(assess(topology)).toEqual({ refusal: null, warnings: [] })
  })
})
