import { configDefaults, defineConfig } from 'vitest/config'

// Some tests need what only Node 24 has. All others run under the Node that native modules were installed for.
const node24Tests = '**/*.node24.test.ts'
const isNode24 = Number.parseInt(process.versions.node, 10) >= 24

export default defineConfig({
  test: {
    include: isNode24 ? [`test/${node24Tests}`] : ['test/**/*.test.ts'],
    exclude: isNode24 ? configDefaults.exclude : [...configDefaults.exclude, node24Tests],
    globalSetup: isNode24 ? [] : ['test/global-setup.ts'],
    pool: 'forks',
    // One more than CI has cores, since tests wait for half of their time.
    maxWorkers: 3,
    // A stall of the machine that outlasts a ttl looks like a failure. Tests that pass only now are marked in the output.
    retry: process.env.CI ? 1 : 0,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // Servers stop here.
    teardownTimeout: 60_000,
  },
})
